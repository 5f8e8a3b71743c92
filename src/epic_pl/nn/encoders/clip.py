"""CLIP's two towers as frozen encoders. Shape legend: B batch, N tokens, n prompts, d width."""

from typing import Any

import torch
from torch import Tensor

from epic_pl.nn.encoders.base import masked_mean, merged
from epic_pl.nn.encoders.hf import HFEncoder, Projections


class _CLIPTower(HFEncoder):
    """Base of both towers: how the layers of CLIP are run."""

    def _layers(self) -> Any:
        return self.model.encoder.layers

    def _projections(self, index: int) -> Projections:
        layer = self._layers()[index]
        attention = layer.self_attn
        return Projections(layer.layer_norm1, attention.q_proj, attention.k_proj, attention.v_proj)


class CLIPImageEncoder(_CLIPTower):
    """CLIP's vision tower; "auto" and "cls" pool the class token, "mean" the patches."""

    num_prefix_tokens = 1

    def example(self, rows: int, tokens: int, generator: torch.Generator) -> Tensor:
        """Random images ``(B, 3, H, W)`` of the size used in pretraining."""
        side = self.model.config.image_size
        return torch.randn(rows, 3, side, side, generator=generator)

    def embed(self, inputs: Tensor) -> Tensor:
        """Tokens ``(B, N, d)`` of images ``(B, 3, H, W)``: class token, then patches."""
        # interpolate the position embedding if images are not of the pretraining size
        side = self.model.config.image_size
        resized = tuple(inputs.shape[-2:]) != (side, side)
        tokens: Tensor = self.model.pre_layrnorm(
            self.model.embeddings(inputs, interpolate_pos_encoding=resized)
        )
        return tokens

    def pool(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pooled output ``(B, d)``: the pooling, then the tower's last norm."""
        pooled = tokens[:, 1:].mean(dim=1) if self.pooling == "mean" else tokens[:, 0]
        normed: Tensor = self.model.post_layernorm(pooled)
        return normed

    def merge(self, tokens: Tensor) -> Tensor:
        """Tokens ``(B, M, d)`` with means of neighbouring patches, at most 8 a side."""
        return merged(tokens, self.num_prefix_tokens)

    def can_trim_last_layer(self, index: int) -> bool:
        """Whether only the class token is pooled."""
        return self.pooling != "mean"


class CLIPTextEncoder(_CLIPTower):
    """CLIP's text tower; tokens attend to earlier tokens and prompts, prompts to all positions.

    "auto" pools the end-of-text token, the last visible one; "mean" all visible ones; "cls" is
    "auto", since only the last token of a causal model attends to all others.
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
        # with left padding a padded query has no visible key, so it may attend to itself
        return (allowed & seen) | torch.eye(size, dtype=torch.bool, device=tokens.device)

    def pool(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pooled output ``(B, d)``: the tower's last norm, then the pooling."""
        normed: Tensor = self.model.final_layer_norm(tokens)
        if self.pooling == "mean":
            return masked_mean(normed, mask)
        if mask is None:
            return normed[:, -1]
        last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)  # (B,)
        return normed[torch.arange(normed.shape[0], device=mask.device), last]
