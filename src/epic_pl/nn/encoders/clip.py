"""CLIP's two towers as frozen encoders. Shape legend: B batch, N tokens, n prompts, d width."""

from typing import Any

import torch
from torch import Tensor, nn

from epic_pl.nn.encoders.base import Encoder, Pooling, masked_mean


class _CLIPTower(Encoder):
    """What both towers share: how a layer is run."""

    model: Any

    def __init__(self, model: nn.Module, pooling: Pooling = "auto") -> None:
        tower: Any = model
        super().__init__(model, tower.config.hidden_size, len(tower.encoder.layers), pooling)

    def _layer(self, index: int, tokens: Tensor, attention_mask: Tensor | None) -> Tensor:
        outputs: Tensor = self.model.encoder.layers[index](tokens, attention_mask=attention_mask)
        return outputs


class CLIPImageEncoder(_CLIPTower):
    """CLIP's vision tower; "auto" and "cls" pool the class token, "mean" the patches."""

    def embed(self, inputs: Tensor) -> Tensor:
        """Pictures ``(B, 3, H, W)`` to tokens ``(B, N, d)``: class, patches."""
        # another size than pretraining's has its position grid interpolated
        resized = inputs.shape[-1] != self.model.config.image_size
        tokens: Tensor = self.model.pre_layrnorm(
            self.model.embeddings(inputs, interpolate_pos_encoding=resized)
        )
        return tokens

    def pool(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pooling, then the tower's last norm, ``(B, d)``."""
        pooled = tokens[:, 1:].mean(dim=1) if self.pooling == "mean" else tokens[:, 0]
        normed: Tensor = self.model.post_layernorm(pooled)
        return normed


class CLIPTextEncoder(_CLIPTower):
    """CLIP's text tower: tokens see the past only, prompts see all and are seen by all.

    "auto" pools the end-of-text token, the last visible one; "mean" all visible ones; "cls" is
    "auto", since a causal model has its summary at the end.
    """

    def embed(self, inputs: Tensor) -> Tensor:
        """Token ids ``(B, N)`` to tokens ``(B, N, d)``."""
        tokens: Tensor = self.model.embeddings(input_ids=inputs)
        return tokens

    def _attention_mask(self, mask: Tensor | None, tokens: Tensor, num_extra: int) -> Tensor:
        num_tokens = tokens.shape[1]
        size = num_tokens + num_extra
        allowed = torch.ones(size, size, dtype=torch.bool, device=tokens.device)
        allowed[:num_tokens, :num_tokens].tril_()
        seen = super()._attention_mask(mask, tokens, num_extra)  # (B, 1, 1, N + n) or None
        if seen is None:
            return allowed[None, None]  # (1, 1, N + n, N + n)
        # a padded query sees nothing on its left when padding comes first: let it see itself
        return (allowed & seen) | torch.eye(size, dtype=torch.bool, device=tokens.device)

    def pool(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """The last norm, then pooling, ``(B, d)``."""
        normed: Tensor = self.model.final_layer_norm(tokens)
        if self.pooling == "mean":
            return masked_mean(normed, mask)
        if mask is None:
            return normed[:, -1]
        positions = torch.arange(normed.shape[1], device=normed.device)
        last = (mask * positions).argmax(dim=1)  # (B,)
        return normed[torch.arange(len(normed), device=normed.device), last]
