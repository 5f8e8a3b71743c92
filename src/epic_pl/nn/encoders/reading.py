"""Attention of a small stream that reads itself and a memory, which is never copied.

Shape legend: B batch, h heads, N tokens of the memory, n positions of the stream, d width.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from epic_pl.nn.encoders.base import Memory
from epic_pl.stored_field import StoredField


def read_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    memory: Memory,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """``softmax(Q [K_m; K]^T) [V_m; V]``, ``(B, h, n, d / h)``, in the queries' precision.

    Attention kernels want ``[K_m; K]`` and ``[V_m; V]`` in one piece. A step reads every memory
    once, so writing these copies cost more than all else that a layer does; for n far below N the
    scores are small, and they alone are put side by side.

    Args:
        queries: of the stream ``(B, h, n, d / h)``.
        keys: the same.
        values: the same.
        memory: of N tokens.
        mask: ``(B, 1, 1, N + n)`` bool, True on what may be read, the memory first; None where all
            may. Something must be left to read.
        scale: of the scores; None is one over the root of ``d / h``.
    """
    scaled = queries * (queries.shape[-1] ** -0.5 if scale is None else scale)
    stored = _times_stored(scaled, memory.keys, True)  # (B, h, n, N)
    scores = torch.cat([stored, scaled @ keys.transpose(-1, -2)], dim=-1)  # (B, h, n, N + n)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    # under autocast the softmax is in float32
    weights = scores.softmax(dim=-1).to(values.dtype)
    length = memory.keys.shape[2]
    read: Tensor = _times_stored(weights[..., :length], memory.values, False)
    return read + weights[..., length:] @ values


class _TimesStored(torch.autograd.Function):
    """``x S`` or ``x S^T`` for numbers that get no gradient, kept for backward as they are stored.

    Autograd would keep a copy in x's precision for every layer: at half the precision and four
    layers that is twice the batch's own memory. What is read where it is stored is read again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, stored: Tensor | StoredField, transposed: bool) -> Tensor:
        if isinstance(stored, Tensor):
            ctx.save_for_backward(stored)
        else:
            ctx.in_place = stored
        ctx.transposed = transposed
        return _product(x, stored, transposed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (stored,) = ctx.saved_tensors or (ctx.in_place,)
        return _product(gradient, stored, not ctx.transposed), None, None


def _times_stored(x: Tensor, stored: Tensor | StoredField, transposed: bool) -> Tensor:
    if isinstance(stored, Tensor):
        if stored.requires_grad:  # a memory of joint prompts, whose tokens depend on the prompts
            return _product(x, stored, transposed)
        stored = stored.detach()
    product: Tensor = _TimesStored.apply(x, stored, transposed)  # type: ignore[no-untyped-call]  # torch
    return product


def _product(x: Tensor, stored: Tensor | StoredField, transposed: bool) -> Tensor:
    """``x S`` or ``x S^T``; of a field that is stored elsewhere, a few samples at a time."""
    if isinstance(stored, Tensor):
        return x @ _as(stored, x, transposed)
    product: Tensor | None = None
    for samples, piece in stored.pieces(x.dtype):  # (b, h, N, d / h)
        part = x[samples] @ (piece.mT if transposed else piece)
        if product is None:
            product = part.new_empty(len(x), *part.shape[1:])
        product[samples] = part
    assert product is not None  # a batch has at least one sample
    return product


def _as(stored: Tensor, like: Tensor, transposed: bool) -> Tensor:
    """``stored`` in the precision of ``like``, in one pass to a layout that products take."""
    converted = stored.to(like.dtype).contiguous()
    return converted.transpose(-1, -2) if transposed else converted
