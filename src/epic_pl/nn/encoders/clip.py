"""CLIP's two towers as frozen encoders. Shape legend: B batch, N tokens, n prompts, d width."""

from typing import Any

import torch
from torch import Tensor, nn

from epic_pl.nn.encoders.base import (
    Encoder,
    Pooling,
    last_token,
    masked_mean,
    read_mask,
)
from epic_pl.nn.encoders.hf_attention import hf_configuration, let_read, split_heads, unprojected
from epic_pl.nn.encoders.reading import Memory, Unprojected


class _CLIPTower(Encoder):
    """What both towers share: how a layer is run."""

    model: Any

    def __init__(self, model: nn.Module, pooling: Pooling = "auto") -> None:
        tower: Any = let_read(model)
        super().__init__(model, tower.config.hidden_size, len(tower.encoder.layers), pooling)

    def configuration(self) -> dict[str, Any]:
        """Options of the architecture that leave no trace in names and shapes."""
        return hf_configuration(self.model.config)

    def _layer(self, index: int, tokens: Tensor, attention_mask: Tensor | None) -> Tensor:
        outputs: Tensor = self.model.encoder.layers[index](tokens, attention_mask=attention_mask)
        return outputs

    def projections(self, index: int) -> list[nn.Module]:
        """Three of layer ``index``."""
        attention = self.model.encoder.layers[index].self_attn
        return [attention.q_proj, attention.k_proj, attention.v_proj]

    def memory(self, index: int, tokens: Tensor) -> Memory:
        """Keys and values of layer ``index`` for the tokens that enter it."""
        layer = self.model.encoder.layers[index]
        attention, normed = layer.self_attn, layer.layer_norm1(tokens)
        return Memory(
            split_heads(attention.k_proj(normed), attention.head_dim),
            split_heads(attention.v_proj(normed), attention.head_dim),
        )

    def unprojected(self, index: int, tokens: Tensor) -> Unprojected | None:
        """Normed tokens of layer ``index``."""
        layer = self.model.encoder.layers[index]
        attention = layer.self_attn
        normed = layer.layer_norm1(tokens)
        return unprojected(normed, attention.k_proj, attention.v_proj, attention.num_heads)

    def queries(self, index: int, tokens: Tensor) -> Tensor:
        """Queries of layer ``index`` for the tokens that enter it."""
        layer = self.model.encoder.layers[index]
        attention = layer.self_attn
        return split_heads(attention.q_proj(layer.layer_norm1(tokens)), attention.head_dim)

    def read_layer(
        self, index: int, stream: Tensor, memory: Memory | Unprojected, mask: Tensor | None = None
    ) -> Tensor:
        """Layer ``index`` on a stream ``(B, n, d)`` that reads itself and the memory."""
        outputs: Tensor = self.model.encoder.layers[index](
            stream,
            attention_mask=read_mask(mask, memory.length + stream.shape[1]),
            memory=memory,
        )
        return outputs


class CLIPImageEncoder(_CLIPTower):
    """CLIP's vision tower; "auto" and "cls" pool the class token, "mean" the patches."""

    num_prefix_tokens = 1

    def embed(self, inputs: Tensor) -> Tensor:
        """Pictures ``(B, 3, H, W)`` to tokens ``(B, N, d)``: class, patches."""
        # another size than pretraining's has its position grid interpolated
        side = self.model.config.image_size
        resized = tuple(inputs.shape[-2:]) != (side, side)
        tokens: Tensor = self.model.pre_layrnorm(
            self.model.embeddings(inputs, interpolate_pos_encoding=resized)
        )
        return tokens

    def pool(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pooling, then the tower's last norm, ``(B, d)``."""
        pooled = tokens[:, 1:].mean(dim=1) if self.pooling == "mean" else tokens[:, 0]
        normed: Tensor = self.model.post_layernorm(pooled)
        return normed

    def summary(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """The class token, unless the mean is pooled."""
        return None if self.pooling == "mean" else tokens[:, :1]

    def pool_summary(self, summary: Tensor) -> Tensor:
        """The tower's last norm."""
        normed: Tensor = self.model.post_layernorm(summary[:, 0])
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
        return last_token(normed, mask)[:, 0]

    def ends_in_first(self, index: int) -> bool:
        """No: the end-of-text token is pooled, and what comes before it does not see it."""
        return False

    def summary(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """The end-of-text token, unless the mean is pooled."""
        return None if self.pooling == "mean" else last_token(tokens, mask)

    def pool_summary(self, summary: Tensor) -> Tensor:
        """The tower's last norm."""
        normed: Tensor = self.model.final_layer_norm(summary[:, 0])
        return normed
