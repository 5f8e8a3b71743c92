"""Picking a batch's records out of mapped shards.

Shape legend: B items of a batch, N tokens of its longest item, R rows of records (B or B · N),
w words of a part.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from epic_pl.cache.buffers import BufferPool
from epic_pl.cache.codec import decode
from epic_pl.cache.copying import Copy, copy_all
from epic_pl.cache.layout import WORD, Part, Record
from epic_pl.cache.shard import Shard

Rows = npt.NDArray[np.int64]
_LARGE = 1 << 11  # words from which one copy an item beats picking all and placing all


@dataclass(frozen=True)
class Group:
    """The items of a batch that lie in one shard: where in the batch, and where in the shard."""

    shard: Shard
    positions: Rows
    items: Rows


def gather_items(
    record: Record, groups: Sequence[Group], batch: int, buffers: BufferPool
) -> dict[str, Tensor]:
    """For each field of the item record ``(B, *shape)``, in the order of the batch."""

    def pick(part: Part) -> Tensor:
        out = buffers.take(batch, part.words)  # (B, w)
        copies: list[Copy] = []
        for group in groups:
            source = group.shard.items[:, part.start : part.stop]
            if part.words < _LARGE:
                picked = source.index_select(0, torch.from_numpy(group.items))
                out.index_copy_(0, torch.from_numpy(group.positions), picked)
                continue
            rows, mine = out.numpy(), source.numpy()
            pairs = zip(group.positions, group.items, strict=True)
            copies += [(rows[position], mine[item]) for position, item in pairs]
        copy_all(copies)
        return out

    return _decoded(record, pick, buffers)


def gather_tokens(
    record: Record,
    groups: Sequence[Group],
    starts: Rows,
    mask: npt.NDArray[np.bool_],
    buffers: BufferPool,
) -> dict[str, Tensor]:
    """For each field of the token record ``(B, N, ...)``, zeros where ``mask (B, N)`` is False.

    ``starts`` (B,) is each item's first row in its shard's token matrix.
    """
    batch, longest = mask.shape
    lengths = mask.sum(1)

    def pick(part: Part) -> Tensor:
        out = buffers.take(batch * longest, part.words)  # (B · N, w)
        rows, copies = out.numpy(), list[Copy]()
        for group in groups:
            source = group.shard.tokens[:, part.start : part.stop].numpy()
            for position in group.positions.tolist():
                first, count, at = starts[position], lengths[position], position * longest
                copies.append((rows[at : at + count], source[first : first + count]))
                copies.append((rows[at + count : at + longest], 0))
        copy_all(copies)
        return out

    decoded = _decoded(record, pick, buffers)
    return {name: rows.view(batch, longest, *rows.shape[1:]) for name, rows in decoded.items()}


def _decoded(
    record: Record, pick: Callable[[Part], Tensor], buffers: BufferPool
) -> dict[str, Tensor]:
    fields: dict[str, Tensor] = {}
    for part in record.parts:
        numbers = decode(part, pick(part))
        if part.role == "scale":  # it follows its values
            numbers = _dequantized(fields[part.field.name], numbers, buffers)
        fields[part.field.name] = numbers
    return fields


def _dequantized(values: Tensor, scale: Tensor, buffers: BufferPool) -> Tensor:
    """``(..., d)`` int8 times ``(...)`` float16, in float32."""
    rows = len(values)
    words = -(-values[0].numel() * torch.float32.itemsize // WORD)
    out = buffers.take(rows, words).view(torch.float32)[:, : values[0].numel()]
    out = out.view(values.shape)
    # two steps: torch's product of two types is six times slower than cast and product
    return out.copy_(values).mul_(scale.float().unsqueeze(-1))
