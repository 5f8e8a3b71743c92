"""Reading a feature store: rows of items, and batches of them.

Shape legend: B items of a batch, N tokens of its longest item.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from epic_pl.features.store.int8 import SCALE, dequantize
from epic_pl.features.store.shard import digests_of, open_shard
from epic_pl.features.store.spec import DIGEST, Digests, Field, StoreSpec
from epic_pl.types import Features

Rows = npt.NDArray[np.int64]
_LARGE = 1 << 17  # numbers of an item from which products of its own cost nothing extra


class FeatureStore:
    """The items that a store has, mapped into memory and read-only.

    Shards that are truncated or not of the spec are left out; a build writes them again.

    Args:
        folder: the store's own folder.
        fields: the fields to read; None reads all.
        shards: names of the files to open; None opens all.

    Attributes:
        spec: what the store holds.
        digests: of its items, in the order of rows.

    Raises:
        CacheError: there is no such store.
    """

    def __init__(
        self,
        folder: Path,
        fields: Sequence[Field] | None = None,
        shards: Sequence[str] | None = None,
    ) -> None:
        self.folder, self.spec = folder, StoreSpec.read(folder)
        self._fields = self.spec.fields if fields is None else fields
        names = sorted(path.name for path in folder.glob("shard-*")) if shards is None else shards
        opened = {name: open_shard(folder / name, self.spec) for name in names}
        self._names = [name for name, shard in opened.items() if shard is not None]
        self._shards = [shard for shard in opened.values() if shard is not None]
        self.digests: Digests = _joined(
            (shard["digests"].numpy().view(DIGEST)[:, 0] for shard in self._shards), DIGEST
        )
        self._order = np.argsort(self.digests, kind="stable")
        # of each row: its shard, its place there, and the place of its first token
        counts = [len(shard["digests"]) for shard in self._shards]
        self._shard = np.repeat(np.arange(len(counts)), counts)
        self._place = _joined(map(np.arange, counts))
        lengths = [shard["lengths"].numpy() for shard in self._shards if self.spec.ragged]
        self._lengths = _joined(lengths)
        self._start = _joined(np.cumsum(n) - n for n in lengths)

    def __reduce__(self) -> tuple[type["FeatureStore"], tuple[object, ...]]:
        # the same shards, whatever other processes have added: rows depend on them
        return type(self), (self.folder, self._fields, self._names)

    def __len__(self) -> int:
        return len(self.digests)

    def rows(self, hashes: Sequence[str]) -> Rows:
        """Row of each item, -1 where the store does not have it."""
        digests = digests_of(hashes)
        if len(self) == 0:
            return np.full(len(digests), -1)
        at = np.searchsorted(self.digests, digests, sorter=self._order)
        rows = self._order[np.minimum(at, len(self) - 1)]
        return np.where(self.digests[rows] == digests, rows, -1)

    def gather(self, rows: Rows, in_place: Collection[str] = ()) -> Features:
        """Read a batch.

        Args:
            rows: (B,) as `rows` gives them, in any order, repeated or not; at least one. Rows -1
                give zeros, and no tokens.
            in_place: fields that are given as lists of B mapped tensors if they are large and
                floating point.

        Returns:
            For each field ``(B, *shape)``, in ragged stores with the token axis padded with zeros
            to N; int8 as float32, else as stored. Ragged stores add ``mask (B, N)`` bool, True on
            tokens, where fields with tokens are read.
        """
        batch: Features = {}
        is_int8 = self.spec.dtype == "int8"
        for field in self._fields:
            axis = self.spec.ragged_axis(field)
            items = self._items(field.name, axis, rows)
            if field.name in in_place and not is_int8 and math.prod(field.shape) >= _LARGE:
                batch[field.name] = items
                continue
            values = _stacked(items, axis)
            if is_int8:
                scales = self._items(field.name + SCALE, axis, rows)
                values = dequantize(values, _stacked(scales, axis))
            batch[field.name] = values
        if any(self.spec.ragged_axis(field) is not None for field in self._fields):
            lengths = np.where(rows < 0, 0, self._lengths[rows])
            batch["mask"] = torch.from_numpy(np.arange(max(lengths.max(), 1)) < lengths[:, None])
        return batch

    def _items(self, name: str, axis: int | None, rows: Rows) -> list[Tensor]:
        """A tensor of each row, mapped, with its own number of tokens along ``axis``."""
        items = []
        for row in rows.tolist():
            stored = self._shards[self._shard[row]][name]
            first, count = self._place[row], 1
            if axis is not None:
                first, count = self._start[row], self._lengths[row]
            part = stored[first : first + count]
            if row < 0:
                part = stored.new_zeros(1, *stored.shape[1:])
            items.append(part[0] if axis is None else part.movedim(0, axis))
        return items


def _stacked(items: list[Tensor], axis: int | None) -> Tensor:
    """Items as one tensor, padded with zeros along ``axis``."""
    if axis is None:
        return torch.stack(items)
    padded = pad_sequence([item.movedim(axis, 0) for item in items], batch_first=True)
    return padded.movedim(1, axis + 1)


def _joined(
    arrays: Iterable[npt.NDArray[Any]], dtype: npt.DTypeLike = np.int64
) -> npt.NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *arrays])
