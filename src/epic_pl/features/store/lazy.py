"""Fields of a batch that stay in their mapped shards until they are used.

Shape legend: B items of a batch, b consecutive ones of them.
"""

import math
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor

from epic_pl.features.store.gather import Group, Tokens, gather_batch
from epic_pl.features.store.memory import BufferPool
from epic_pl.features.store.records import Layout, Part
from epic_pl.lazy_tensor import LazyTensor
from epic_pl.types import Features

_PIECE = 1 << 21  # bytes in the reader's precision, to fit the processor's caches
_SERIAL = (1 << 15) - 1  # numbers that torch copies without other threads
_LARGE = 1 << 18  # bytes of an item from which a read of its own costs nothing extra

# a view of one item's numbers, and of int8 the scale of each vector
_View = tuple[Tensor, Tensor | None]


def read_batch(
    layout: Layout,
    groups: Sequence[Group],
    batch: int,
    tokens: Tokens | None,
    buffers: BufferPool,
    in_place: Collection[str],
) -> Features:
    """As `gather_batch`, but large fields among ``in_place`` come as a `LazyTensor`."""
    lazy: Features = {}
    for record, starts in ((layout.item, None), (layout.token, tokens)):
        per_item = 1.0 if starts is None else float(starts.lengths.mean())
        for name in {part.field.name for part in record.parts}.intersection(in_place):
            parts = [part for part in record.parts if part.field.name == name]
            if per_item * sum(part.nbytes for part in parts) >= _LARGE:
                lazy[name] = StoredRows(parts, groups, batch, starts)
    rest = layout.only({field.name for field in layout.spec.fields} - lazy.keys())
    return {**gather_batch(rest, groups, batch, tokens, buffers), **lazy}


class StoredRows(LazyTensor):
    """One field of a batch, read from the shards piece by piece.

    Numbers are those that `FeatureStore.gather` gives: zeros for absent items and behind an item's
    tokens, int8 as float32.

    Args:
        parts: the field's values and, of int8, their scale.
        groups: the batch's items by shard; those in no group are absent.
        batch: B.
        tokens: position of the items' tokens, if the field is in token records.
        at: leading axes of the field that are fixed.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        groups: Sequence[Group],
        batch: int,
        tokens: Tokens | None,
        at: tuple[int, ...] = (),
    ) -> None:
        self._parts, self._groups, self._tokens, self._at = parts, groups, tokens, at
        values = parts[0]
        self.dtype = torch.float32 if len(parts) > 1 else values.dtype
        shape = list(values.shape)
        if tokens is not None:
            assert values.field.token_axis is not None
            self._token_axis = values.field.token_axis - len(at)  # of an item
            shape.insert(values.field.token_axis, max(int(tokens.lengths.max()), 1))
        self.shape = (batch, *shape[len(at) :])

    def __getitem__(self, index: tuple[slice | int, ...]) -> "StoredRows":
        samples, *at = index
        fixed = (*self._at, *(axis for axis in at if isinstance(axis, int)))
        is_leading = len(fixed) <= (self._parts[0].field.token_axis or 0)
        if samples != slice(None) or len(fixed) < len(self._at) + len(at) or not is_leading:
            raise IndexError(
                f"A lazy tensor has no index {index}, only a full slice and integers for axes in "
                "front of the tokens."
            )
        return StoredRows(self._parts, self._groups, self.shape[0], self._tokens, fixed)

    def pieces(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """See the base class."""
        views, batch = self._views(), self.shape[0]
        # scales are multiplied in float32, as a gather does
        buffer_dtype = dtype if len(self._parts) == 1 else torch.float32
        size = math.prod(self.shape[1:]) * buffer_dtype.itemsize
        count = min(max(_PIECE // size, 1), batch)
        buffer = torch.empty(count, *self.shape[1:], dtype=buffer_dtype)
        for start in range(0, batch, count):
            rows = slice(start, min(start + count, batch))
            piece = buffer[: rows.stop - start]
            self._read(views[rows], piece)
            yield rows, piece.to(dtype)

    def whole(self) -> Tensor:
        """See the base class."""
        out = torch.empty(self.shape, dtype=self.dtype)
        self._read(self._views(), out)
        return out

    def _views(self) -> list[_View | None]:
        """For each item of the batch its view, None where it is absent."""
        views: list[_View | None] = [None] * self.shape[0]
        for group in self._groups:
            values, *scale = (self._matrix(group, part) for part in self._parts)
            pairs = zip(group.positions.tolist(), group.items.tolist(), strict=True)
            for position, item in pairs:
                views[position] = (
                    self._item(values, position, item),
                    self._item(scale[0], position, item) if scale else None,
                )
        return views

    def _matrix(self, group: Group, part: Part) -> Tensor:
        """A shard's numbers of the field, one row an item or, in token records, a token."""
        records = group.shard.items if self._tokens is None else group.shard.tokens
        numbers = part.decode(records[:, part.start : part.stop])
        for axis in self._at:
            numbers = numbers[:, axis]
        return numbers

    def _item(self, numbers: Tensor, position: int, item: int) -> Tensor:
        if self._tokens is None:
            return numbers[item]
        start, length = self._tokens.starts[position], self._tokens.lengths[position]
        return numbers[start : start + length].movedim(0, self._token_axis)

    def _read(self, views: Sequence[_View | None], out: Tensor) -> None:
        """Fill ``out (b, ...)``."""
        for row, view in zip(out.unbind(), views, strict=True):
            if view is None:
                row.zero_()
                continue
            values, scale = view
            if self._tokens is not None:
                length = values.shape[self._token_axis]
                padding = row.shape[self._token_axis] - length
                row.narrow(self._token_axis, length, padding).zero_()
                row = row.narrow(self._token_axis, 0, length)
            _copy(row, values)
            if scale is not None:
                row.mul_(scale.float().unsqueeze(-1))


def _copy(out: Tensor, numbers: Tensor) -> None:
    """Copy in parts small enough for torch to use one thread.

    Several would be joined after every item, and waited for where other processes keep a core busy.
    """
    rows = max(_SERIAL * len(out) // max(out.numel(), 1), 1)
    for part, source in zip(_parts(out, rows), _parts(numbers, rows), strict=True):
        part.copy_(source)


def _parts(tensor: Tensor, rows: int) -> tuple[Tensor, ...]:
    return tensor.split(rows)  # type: ignore[no-untyped-call,no-any-return]  # torch
