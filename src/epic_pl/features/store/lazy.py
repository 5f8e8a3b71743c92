"""Fields of a batch that stay in their mapped shards until they are used.

Shape legend: B items of a batch, b consecutive ones of them.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from epic_pl.lazy_tensor import LazyTensor

_PIECE = 1 << 21  # bytes in the reader's precision, to fit the processor's caches
_SERIAL = (1 << 15) - 1  # numbers that torch copies without other threads


class StoredItem(NamedTuple):
    """One item's numbers as they are mapped, and of int8 the scale of each vector."""

    values: Tensor
    scale: Tensor | None


class StoredRows(LazyTensor):
    """One field of a batch, read from the shards piece by piece.

    Numbers come as they are stored, int8 as float32.

    Args:
        items: of the batch, each ``shape``, but for its own number of tokens.
        shape: of one item; the token axis holds the largest length.
        token_axis: of items whose number of tokens differs.
    """

    def __init__(
        self, items: Sequence[StoredItem], shape: Sequence[int], token_axis: int | None = None
    ) -> None:
        self._items, self._token_axis = items, token_axis
        values, scale = items[0]
        self.dtype = values.dtype if scale is None else torch.float32
        self.shape = (len(items), *shape)

    def __getitem__(self, index: tuple[slice | int, ...]) -> "StoredRows":
        samples, *at = index
        axes = tuple(axis for axis in at if isinstance(axis, int))
        limit = len(self.shape) - 2 if self._token_axis is None else self._token_axis
        if samples != slice(None) or len(axes) < len(at) or len(axes) > limit:
            raise IndexError(
                f"A lazy tensor has no index {index}, only a full slice and integers for axes in "
                "front of the tokens."
            )
        items = [
            StoredItem(values[axes], None if scale is None else scale[axes])
            for values, scale in self._items
        ]
        token_axis = None if self._token_axis is None else self._token_axis - len(axes)
        return StoredRows(items, self.shape[1 + len(axes) :], token_axis)

    def pieces(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """See the base class."""
        batch, item = self.shape[0], self.shape[1:]
        # scales are multiplied in float32, as `whole` does
        buffer_dtype = dtype if self._items[0].scale is None else torch.float32
        count = min(max(_PIECE // (math.prod(item) * buffer_dtype.itemsize), 1), batch)
        buffer = torch.empty(count, *item, dtype=buffer_dtype)
        for start in range(0, batch, count):
            rows = slice(start, min(start + count, batch))
            piece = buffer[: rows.stop - start]
            for row, stored in zip(piece.unbind(), self._items[rows], strict=True):
                self._read(row, stored)
            yield rows, piece.to(dtype)

    def _read(self, out: Tensor, stored: StoredItem) -> None:
        axis = self._token_axis
        if axis is not None:
            length = stored.values.shape[axis]
            out.narrow(axis, length, out.shape[axis] - length).zero_()
            out = out.narrow(axis, 0, length)
        _copy(out, stored.values)
        if stored.scale is not None:
            out.mul_(stored.scale.float().unsqueeze(-1))

    def whole(self) -> Tensor:
        """See the base class."""
        return self.gather(pin_memory=False)

    def gather(self, pin_memory: bool) -> Tensor:
        """The whole tensor, in page-locked memory if asked for."""
        values = self._joined([item.values for item in self._items], pin_memory)
        scales = [item.scale for item in self._items if item.scale is not None]
        if scales:
            # two steps: torch's product of two types is six times slower than cast and product
            values = values.float().mul_(self._joined(scales, False).float().unsqueeze(-1))
        return values.pin_memory() if pin_memory else values

    def _joined(self, parts: Sequence[Tensor], pin_memory: bool) -> Tensor:
        if self._token_axis is None:
            shape = (len(parts), *parts[0].shape)
            out = torch.empty(shape, dtype=parts[0].dtype, pin_memory=pin_memory)
            return torch.stack(list(parts), out=out)
        axis = self._token_axis
        padded = pad_sequence([part.movedim(axis, 0) for part in parts], batch_first=True)
        return padded.movedim(1, axis + 1)


def _copy(out: Tensor, numbers: Tensor) -> None:
    """Copy in parts small enough for torch to use one thread.

    Several would be joined after every item, and waited for where other processes keep a core busy.
    """
    rows = max(_SERIAL * len(out) // max(out.numel(), 1), 1)
    for part, source in zip(_parts(out, rows), _parts(numbers, rows), strict=True):
        part.copy_(source)


def _parts(tensor: Tensor, rows: int) -> tuple[Tensor, ...]:
    return tensor.split(rows)  # type: ignore[no-untyped-call,no-any-return]  # torch
