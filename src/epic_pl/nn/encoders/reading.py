"""Attention of a small stream that reads itself and a memory, which is never copied.

Shape legend: B batch, h heads, N tokens of the memory, n positions of the stream, d width.
"""

import torch
from torch import Tensor

from epic_pl.nn.encoders.base import Memory


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
    # one pass from the stored numbers to a layout that matrix products take as it is
    remembered = [part.to(queries.dtype).contiguous() for part in memory]
    scores = torch.cat(
        [scaled @ remembered[0].transpose(-1, -2), scaled @ keys.transpose(-1, -2)], dim=-1
    )  # (B, h, n, N + n)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    # under autocast the softmax is in float32
    weights = scores.softmax(dim=-1).to(values.dtype)
    length = remembered[0].shape[2]
    read: Tensor = weights[..., :length] @ remembered[1] + weights[..., length:] @ values
    return read
