"""timm's Eva as a frozen encoder. Shape legend: B batch, P patches, h heads, d width."""

from typing import Any, cast

import torch
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from timm.models.eva import EvaBlockPostNorm
from torch import Tensor
from torch.nn.functional import normalize, pad

from epic_pl.nn.encoders.base import merged
from epic_pl.nn.encoders.memory import Memory
from epic_pl.nn.encoders.timm_vit import TimmViTEncoder


class TimmEvaEncoder(TimmViTEncoder):
    """Any ``timm.models.eva.Eva``: DINOv3, EVA-02, Perception Encoder, ViTs with rotations, ...

    Layers rotate patches by their place; prompts are not rotated, like the class token. Merged
    patches have the mean direction of their rotations.

    Arguments and errors are those of :class:`~epic_pl.nn.encoders.timm_vit.TimmViTEncoder`.
    """

    def configuration(self) -> dict[str, Any]:
        """The architecture, and its options that do not change names or shapes of weights."""
        model, rope = self.model, self.model.rope
        names = ("temperature", "ref_feat_shape", "grid_offset", "grid_indexing", "in_pixels")
        return {
            **super().configuration(),
            "halves": sorted({m.rotate_half for m in model.modules() if hasattr(m, "rotate_half")}),
            "rope": [type(rope).__name__, *(repr(getattr(rope, name, None)) for name in names)],
        }

    def embed(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens ``(B, N, d)`` of images ``(B, 3, H, W)``: class token, registers, patches."""
        model = self.model
        # timm's public methods run the blocks, too
        return cast(Tensor, model.norm_pre(model._pos_embed(model.patch_embed(inputs))[0]))

    def _layer(self, index: int, tokens: Tensor, mask: Tensor | None, num_extra: int) -> Tensor:
        rotation = self._rotation(index, tokens.shape[1] - num_extra - self.num_prefix_tokens)
        if rotation is not None:
            sines, cosines = rotation.chunk(2, dim=-1)
            more = (0, 0, 0, num_extra)  # prompts are rotated by an angle of zero
            rotation = torch.cat([pad(sines, more), pad(cosines, more, value=1.0)], dim=-1)
        return cast(Tensor, self.model.blocks[index](tokens, rope=rotation, attn_mask=mask))

    def memory(self, index: int, tokens: Tensor) -> Memory:
        """Keys and values of block ``index`` for the tokens ``(B, N, d)`` that enter it."""
        first, attention = self.num_prefix_tokens, self._plain_block(index).attn
        _, keys, values = self.heads(index, tokens)
        rotation = self._rotation(index, tokens.shape[1] - first)
        if rotation is not None:
            patches = apply_rot_embed_cat(keys[:, :, first:], rotation, attention.rotate_half)
            keys = torch.cat([keys[:, :, :first], patches], dim=2).type_as(values)
        return Memory(keys, values)

    def can_trim_last_layer(self, index: int) -> bool:
        """No: it would rotate the patches as if they followed no class token."""
        return False

    def _rotation(self, index: int, patches: int) -> Tensor | None:
        """Sines and cosines ``(..., P, 2 d / h)`` of patches, or of merged ones."""
        model, side = self.model, round(patches**0.5)
        if model.rope is None:
            return None
        grid = model.patch_embed.grid_size
        own = merged(torch.empty(1, grid[0] * grid[1], 1, device="meta"), 0).shape[1]
        rotation: Tensor = model.rope.get_embed(shape=grid if patches == own else (side, side))
        rotation = rotation[index] if model.rope_mixed else rotation
        if rotation.shape[-2] == patches:
            return rotation
        means = merged(rotation.reshape(-1, *rotation.shape[-2:]), 0)
        directions = normalize(torch.stack(means.chunk(2, dim=-1)), dim=0)
        return torch.cat([*directions], dim=-1).view(*rotation.shape[:-2], patches, -1)

    def _plain_block(self, index: int) -> Any:
        return self.model.blocks[index]

    def heads(self, index: int, stream: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of block ``index`` for a stream, without rotations."""
        block = self._plain_block(index)
        attention = block.attn
        normed = stream if isinstance(block, EvaBlockPostNorm) else block.norm1(stream)
        if attention.qkv is None:
            parts = [f(normed) for f in (attention.q_proj, attention.k_proj, attention.v_proj)]
        else:
            parts = [*attention.qkv(normed).chunk(3, dim=-1)]
            if getattr(attention, "q_bias", None) is not None:  # biases beside the projection
                biases = attention.q_bias, attention.k_bias, attention.v_bias
                parts = [part + bias for part, bias in zip(parts, biases, strict=True)]
        shape = (*stream.shape[:2], -1, attention.head_dim)
        queries, keys, values = (part.view(shape).transpose(1, 2) for part in parts)
        return attention.q_norm(queries), attention.k_norm(keys), values

    def _finish(self, block: Any, stream: Tensor, read: Tensor) -> Tensor:
        if isinstance(block, EvaBlockPostNorm):
            stream = stream + block.norm1(read)
            return cast(Tensor, stream + block.norm2(block.mlp(stream)))
        gains = [1.0 if gain is None else gain for gain in (block.gamma_1, block.gamma_2)]
        stream = stream + gains[0] * read
        return cast(Tensor, stream + gains[1] * block.mlp(block.norm2(stream)))
