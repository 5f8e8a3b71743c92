"""Batches of records, picked out of mapped shards.

Shape legend: B items of a batch, N tokens of its longest item, R rows of records (B or B · N),
w words of a part.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from epic_pl.features.store.memory import BufferPool, Copy, copy_all
from epic_pl.features.store.records import WORD, Layout, Part, Record

Rows = npt.NDArray[np.int64]
_LARGE = 1 << 11  # words from which one copy for each item is faster than index_select


class Records(Protocol):
    """A shard's two matrices."""

    @property
    def items(self) -> Tensor:
        """(n, words) int64."""

    @property
    def tokens(self) -> Tensor:
        """(T, words) int64."""


@dataclass(frozen=True)
class Group:
    """The items of a batch that lie in one shard: positions in the batch, items in the shard."""

    shard: Records
    positions: Rows
    items: Rows


@dataclass(frozen=True)
class Tokens:
    """Position of the tokens of a ragged store's batch.

    Attributes:
        lengths: (B,) tokens of each item, 0 where it is absent.
        starts: (B,) each item's first row in its shard's token matrix.
    """

    lengths: Rows
    starts: Rows


def gather_batch(
    layout: Layout, groups: Sequence[Group], batch: int, tokens: Tokens | None, buffers: BufferPool
) -> dict[str, Tensor]:
    """All fields of a batch, zeros for items that are in no group; see `FeatureStore.gather`."""
    present = np.zeros(batch, np.int64)
    for group in groups:
        present[group.positions] = 1
    items = [(each.shard.items, each.positions, each.items) for each in groups]
    fields = {name: t[:, 0] for name, t in _gather(layout.item, items, present, buffers).items()}
    if tokens is None:
        return fields
    rows = [(each.shard.tokens, each.positions, tokens.starts[each.positions]) for each in groups]
    by_token = _gather(layout.token, rows, tokens.lengths, buffers)
    for field in (part.field for part in layout.token.parts):
        assert field.token_axis is not None
        fields[field.name] = by_token[field.name].movedim(1, field.token_axis + 1)
    mask = np.arange(max(int(tokens.lengths.max()), 1)) < tokens.lengths[:, None]  # (B, N)
    return fields | {"mask": torch.from_numpy(mask)}


def _gather(
    record: Record,
    sources: Sequence[tuple[Tensor, Rows, Rows]],
    lengths: Rows,
    buffers: BufferPool,
) -> dict[str, Tensor]:
    """For each field of a record ``(B, N, *shape)``, zeros behind each item's length.

    Args:
        record: of the items or of the tokens.
        sources: a shard's matrix, positions in the batch, and their first rows in the matrix.
        lengths: (B,) number of rows of each item, 0 where it is absent.
        buffers: give the memory.
    """
    longest = max(int(lengths.max()), 1)

    def pick(part: Part) -> Tensor:
        out = buffers.take(len(lengths) * longest, part.words)  # (B · N, w)
        rows = out.numpy()
        copies: list[Copy] = []
        for matrix, positions, firsts in sources:
            source = matrix[:, part.start : part.stop].numpy()
            if longest == 1 and part.words < _LARGE:
                stored = lengths[positions] > 0
                rows[positions[stored]] = source[firsts[stored]]
                continue
            for position, first in zip(positions.tolist(), firsts.tolist(), strict=True):
                at, count = position * longest, lengths[position]
                copies.append((rows[at : at + count], source[first : first + count]))
        for position in np.flatnonzero(lengths < longest).tolist():
            at = position * longest
            copies.append((rows[at + lengths[position] : at + longest], 0))
        copy_all(copies)
        return out

    decoded = _decoded(record, pick, buffers)
    return {name: rows.view(-1, longest, *rows.shape[1:]) for name, rows in decoded.items()}


def _decoded(
    record: Record, pick: Callable[[Part], Tensor], buffers: BufferPool
) -> dict[str, Tensor]:
    fields: dict[str, Tensor] = {}
    for part in record.parts:
        numbers = part.decode(pick(part))
        if part.is_scale:
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
