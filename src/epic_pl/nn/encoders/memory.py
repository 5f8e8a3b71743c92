"""Attention of a short stream to itself and a memory, without copying the memory.

Shape legend: B batch, h heads, N tokens of the memory, n positions of the stream, d width.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad


class Memory(NamedTuple):
    """Keys and values of a layer's tokens, each ``(B, h, N, d / h)``.

    With grouped attention h is a divisor of the number of query heads, which share them in order.

    A list of B tensors ``(h, N_b, d / h)`` is read sample by sample; N is then the largest N_b.
    """

    keys: Tensor | list[Tensor]
    values: Tensor | list[Tensor]

    # a method, since torch 2.10 cannot compile properties of a named tuple
    def length(self) -> int:
        """Number of tokens N."""
        return self.keys.shape[2] if isinstance(self.keys, Tensor) else _longest(self.keys)

    def scores(self, queries: Tensor) -> Tensor:
        """Products ``Q K^T (B, h, n, N)`` with queries ``Q (B, h, n, d / h)``."""
        return _times_stored(queries, self.keys, True)

    def weighted(self, weights: Tensor) -> Tensor:
        """Weighted values ``A V (B, h, n, d / h)`` with weights ``A (B, h, n, N)``."""
        return _times_stored(weights, self.values, False)


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    memory: Memory,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """``softmax(Q [K_m; K]^T) [V_m; V]``, ``(B, h, n, d / h)``, in the queries' precision.

    Attention kernels need ``[K_m; K]`` and ``[V_m; V]`` as one tensor each. A step reads every
    memory only once, so these copies would cost more than the rest of the layer. Instead, only the
    scores are concatenated; they are small, since n is far below N.

    Args:
        queries: queries ``Q (B, h, n, d / h)`` of the stream.
        keys: keys ``K (B, h, n, d / h)`` of the stream; with grouped attention h is smaller.
        values: values ``V`` of the stream, of the keys' shape.
        memory: keys ``K_m`` and values ``V_m`` of N tokens.
        mask: ``(B, 1, 1, N + n)`` bool, True on visible positions, the memory first; None if all
            are visible. Each sample needs a visible position.
        scale: factor of the scores; None is ``1 / sqrt(d / h)``.
    """
    scaled = queries * (queries.shape[-1] ** -0.5 if scale is None else scale)
    if (groups := queries.shape[1] // keys.shape[1]) > 1:
        keys, values = (part.repeat_interleave(groups, dim=1) for part in (keys, values))
    stored = memory.scores(scaled)  # (B, h, n, N)
    scores = torch.cat([stored, scaled @ keys.transpose(-1, -2)], dim=-1)  # (B, h, n, N + n)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    # under autocast the softmax is in float32
    weights = scores.softmax(dim=-1).to(values.dtype)
    number = memory.length()
    return memory.weighted(weights[..., :number]) + weights[..., number:] @ values


class _TimesStored(torch.autograd.Function):
    """``x S`` or ``x S^T`` for a constant ``S``, saved for backward in its stored precision.

    Autograd would save a copy in x's precision for every layer. With float16 and four layers these
    copies would take twice the memory of the batch.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, stored: Tensor | list[Tensor], transposed: bool) -> Tensor:
        if isinstance(stored, Tensor):
            ctx.save_for_backward(stored)
        else:
            ctx.samples = stored
        ctx.transposed = transposed
        return _product(x, stored, transposed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (stored,) = ctx.saved_tensors or (ctx.samples,)
        return _product(gradient, stored, not ctx.transposed), None, None


def _times_stored(x: Tensor, stored: Tensor | list[Tensor], transposed: bool) -> Tensor:
    heads = stored.shape[1] if isinstance(stored, Tensor) else stored[0].shape[0]
    if heads < x.shape[1]:  # the queries of a group are further positions of its head
        folded = x.reshape(x.shape[0], heads, x.shape[1] // heads * x.shape[2], x.shape[3])
        products = _times_stored(folded, stored, transposed)
        return products.reshape(*x.shape[:3], products.shape[3])
    # with joint prompts the tokens depend on the prompts
    differentiable = isinstance(stored, Tensor) and stored.requires_grad
    if differentiable or not x.requires_grad:
        return _product(x, stored, transposed)
    product: Tensor = _TimesStored.apply(x, stored, transposed)  # type: ignore[no-untyped-call]  # torch
    return product


def _product(x: Tensor, stored: Tensor | list[Tensor], transposed: bool) -> Tensor:
    """``x S`` or ``x S^T``; samples of a list are padded to the number of tokens of the longest."""
    if isinstance(stored, Tensor):
        converted = stored.to(x.dtype).contiguous()  # both in one pass over the memory
        return x @ (converted.mT if transposed else converted)
    products = []
    for sample, part in zip(x, stored, strict=True):
        numbers, tokens = part.to(x.dtype), part.shape[1]
        if transposed:
            products.append(pad(sample @ numbers.mT, (0, _longest(stored) - tokens)))
        else:
            products.append(sample[..., :tokens] @ numbers)
    return torch.stack(products)


def _longest(samples: list[Tensor]) -> int:
    return max(sample.shape[1] for sample in samples)
