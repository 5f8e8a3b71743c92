"""timm's VisionTransformer as a frozen encoder. Shape legend: B batch, N tokens, d width."""

from typing import Any, cast

import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from epic_pl.nn.encoders.base import Encoder, Pooling, key_mask
from epic_pl.nn.encoders.memory import Memory, attend
from epic_pl.utils.errors import EncoderError


class TimmViTEncoder(Encoder):
    """Any ``timm.models.VisionTransformer``: ViT, DeiT-3, DINO, DINOv2, AugReg, SigLIP, ...

    Args:
        model: the model without a classifier (``num_classes=0``).
        pooling: "cls" is the class token, "mean" the mean of the patches, "auto" timm's pooling.
        **running: further arguments of :class:`~epic_pl.nn.encoders.base.Encoder`.

    Raises:
        EncoderError: if ``pooling`` is "cls" and the model has no class token.
    """

    images = True
    hides_prompts = True
    model: Any

    def __init__(self, model: Any, pooling: Pooling = "auto", **running: Any) -> None:
        super().__init__(model, model.embed_dim, len(model.blocks), pooling, **running)
        if pooling == "cls" and model.cls_token is None:
            raise EncoderError("This ViT has no class token: set encoders.image.pooling to auto.")
        self.num_prefix_tokens = model.num_prefix_tokens

    def configuration(self) -> dict[str, Any]:
        """The architecture, and its options that do not change names or shapes of weights."""
        pool = [self.model.global_pool, getattr(self.model, "pool_include_prefix", False)]
        return timm_entries(self.model) | {"pool": pool}

    def resize(self, image_size: int) -> None:
        """Resample the position embedding for images of another size.

        The result depends on the CPU's instruction set, so the fingerprint is computed first.
        """
        _ = self.fingerprint
        self.model.set_input_size((image_size, image_size))
        self.model.requires_grad_(False)  # timm 1.0.28 creates a new parameter

    @property
    def required_size(self) -> tuple[int, int] | None:
        """Image size of the position embedding; None if timm resamples it for each input."""
        patches = self.model.patch_embed
        return patches.img_size if patches.strict_img_size else None

    def example(self, rows: int, tokens: int, generator: torch.Generator) -> Tensor:
        """Random images ``(B, 3, H, W)`` of the model's own size."""
        model: Any = self.model
        size = model.patch_embed.img_size or model.default_cfg["input_size"][1:]
        return torch.randn(rows, 3, *size, generator=generator)

    def embed(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens ``(B, N, d)`` of images ``(B, 3, H, W)``: class token, registers, patches."""
        model = self.model
        # timm's public methods run the blocks, too
        tokens: Tensor = model.norm_pre(
            model.patch_drop(model._pos_embed(model.patch_embed(inputs)))
        )
        return tokens

    def _layer(self, index: int, tokens: Tensor, mask: Tensor | None, num_extra: int) -> Tensor:
        return cast(Tensor, self.model.blocks[index](tokens, attn_mask=mask))

    def pool(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pooled output ``(B, d)`` after the final norm; images have no padding to mask."""
        model, normed = self.model, self.model.norm(tokens)
        pooled: Tensor
        if self.pooling == "auto":
            pooled = model.forward_head(normed, pre_logits=True)
        elif self.pooling == "cls":
            pooled = model.fc_norm(normed[:, 0])
        else:
            pooled = model.fc_norm(normed[:, model.num_prefix_tokens :].mean(dim=1))
        return pooled

    def memory(self, index: int, tokens: Tensor) -> Memory:
        """Keys and values of block ``index`` for the tokens ``(B, N, d)`` that enter it."""
        block = self._plain_block(index)
        keys, values = _heads(block.attn, block.norm1(tokens), slice(1, 3))
        return Memory(block.attn.k_norm(keys), values)

    def heads(self, index: int, stream: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of block ``index`` for a stream, whatever it reads."""
        block = self._plain_block(index)
        queries, keys, values = _heads(block.attn, block.norm1(stream), slice(0, 3))
        return block.attn.q_norm(queries), block.attn.k_norm(keys), values

    def run_stream(
        self, index: int, stream: Tensor, memory: Memory, mask: Tensor | None = None
    ) -> Tensor:
        """Run block ``index`` on a stream ``(B, n, d)`` that attends to itself and the memory."""
        block = self._plain_block(index)
        attention = block.attn
        seen = key_mask(mask, memory.length() + stream.shape[1])
        read = attend(*self.heads(index, stream), memory, seen)
        read = attention.norm(read.transpose(1, 2).flatten(2))  # (B, n, d)
        if attention.gate is not None:
            read = read * attention.gate(block.norm1(stream)).sigmoid()
        return self._finish(block, stream, attention.proj(read))

    def _finish(self, block: Any, stream: Tensor, read: Tensor) -> Tensor:
        """Output of a block for a stream, after its attention ``read (B, n, d)``."""
        stream = stream + block.ls1(read)
        return cast(Tensor, stream + block.ls2(block.mlp(block.norm2(stream))))

    def can_trim_last_layer(self, index: int) -> bool:
        """Whether only the class token is pooled and the layer is a plain block."""
        alone = self.model.global_pool == "token" and not hasattr(self.model, "dist_token")
        pooled = self.pooling == "cls" or (self.pooling == "auto" and alone)
        return pooled and _is_plain(self.model.blocks[index])

    def _plain_block(self, index: int) -> Any:
        block = self.model.blocks[index]
        if not _is_plain(block):
            raise EncoderError(
                f"Read-only prompts and attention plots need timm's plain Block, but layer {index} "
                f"is a {type(block).__name__}: set prompt_attention to joint, and plot none."
            )
        return block


def timm_entries(model: Any) -> dict[str, Any]:
    """The architecture of a timm model, and options of its modules, for a fingerprint."""
    modules: list[Any] = list(model.modules())
    return {
        "architecture": getattr(model, "pretrained_cfg", {}).get("architecture"),
        "activations": sorted({type(m.act).__name__ for m in modules if hasattr(m, "act")}),
        "heads": sorted({m.num_heads for m in modules if hasattr(m, "num_heads")}),
        "eps": sorted({m.eps for m in modules if hasattr(m, "eps")}),
    }


def _is_plain(block: nn.Module) -> bool:
    return isinstance(block, Block) and isinstance(block.attn, Attention)


def _heads(attention: Any, normed: Tensor, wanted: slice) -> tuple[Tensor, ...]:
    """Queries, keys and values, as ``wanted``, each ``(B, h, N, d / h)`` and before its norm."""
    batch, length, _ = normed.shape
    weight, bias = (
        None if fused is None else fused.unflatten(0, (3, -1))[wanted].flatten(0, 1)
        for fused in (attention.qkv.weight, attention.qkv.bias)
    )
    assert weight is not None
    projected = nn.functional.linear(normed, weight, bias)
    projected = projected.view(batch, length, -1, attention.num_heads, attention.head_dim)
    return projected.permute(2, 0, 3, 1, 4).unbind(0)
