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
    fields = _gather_items(layout.item, groups, batch, buffers)
    absent = np.ones(batch, bool)
    for group in groups:
        absent[group.positions] = False
    if absent.any():
        for tensor in fields.values():
            tensor.index_fill_(0, torch.from_numpy(np.flatnonzero(absent)), 0)
    if tokens is None:
        return fields
    mask = np.arange(max(int(tokens.lengths.max()), 1)) < tokens.lengths[:, None]  # (B, N)
    by_token = _gather_tokens(layout.token, groups, tokens.starts, mask, absent, buffers)
    for part in layout.token.parts:
        axis = part.field.token_axis
        assert axis is not None
        fields[part.field.name] = by_token[part.field.name].movedim(1, axis + 1)
    return fields | {"mask": torch.from_numpy(mask)}


def _gather_items(
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


def _gather_tokens(
    record: Record,
    groups: Sequence[Group],
    starts: Rows,
    mask: npt.NDArray[np.bool_],
    absent: npt.NDArray[np.bool_],
    buffers: BufferPool,
) -> dict[str, Tensor]:
    """For each field of the token record ``(B, N, ...)``, zeros where ``mask (B, N)`` is False.

    ``starts`` (B,) is each item's first row in its shard's token matrix.
    """
    batch, longest = mask.shape
    lengths = mask.sum(1)

    def pick(part: Part) -> Tensor:
        out = buffers.take(batch * longest, part.words)  # (B · N, w)
        rows = out.numpy()
        copies: list[Copy] = [
            (rows[at * longest : (at + 1) * longest], 0) for at in np.flatnonzero(absent).tolist()
        ]
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
