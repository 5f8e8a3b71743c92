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

from epic_pl.errors import CacheError
from epic_pl.features.store.lazy import StoredItem, StoredRows
from epic_pl.features.store.shard import SCALE, Tensors, digests_of, open_shard
from epic_pl.features.store.spec import DIGEST, Digests, Field, StoreSpec
from epic_pl.types import Features

Rows = npt.NDArray[np.int64]
_LARGE = 1 << 18  # bytes of an item from which a read of its own costs nothing extra


class FeatureStore:
    """The items that a store has, mapped into memory and read-only.

    Shards that are truncated or not of the spec are left out; a build writes them again.

    Args:
        folder: the store's own folder.
        pin_memory: gather into page-locked memory, for asynchronous copies to a GPU.
        fields: the fields to read, without token axes; None reads all. Of a field that is stored
            with a larger shape the first entries of each axis are read.
        shards: names of the files to open; None opens all.

    Attributes:
        spec: what the store holds.
        digests: of its items, in the order of rows.
        lengths: tokens of each row; None unless ragged.

    Raises:
        CacheError: there is no such store.
    """

    def __init__(
        self,
        folder: Path,
        pin_memory: bool = False,
        fields: Sequence[Field] | None = None,
        shards: Sequence[str] | None = None,
    ) -> None:
        self.folder, self.spec = folder, StoreSpec.read(folder)
        self._pin_memory = pin_memory and torch.cuda.is_available()  # as the DataLoader does
        self._fields = fields
        names = sorted(path.name for path in folder.glob("shard-*")) if shards is None else shards
        opened = {name: open_shard(folder / name, self.spec) for name in names}
        self._shards = {name: shard for name, shard in opened.items() if shard is not None}
        shard_list = list(self._shards.values())
        self._firsts = np.cumsum([0, *(len(shard["digests"]) for shard in shard_list)])
        self.digests: Digests = _joined(
            (shard["digests"].numpy().view(DIGEST)[:, 0] for shard in shard_list), DIGEST
        )
        self._order = np.argsort(self.digests, kind="stable")
        self.lengths: Rows | None = None
        if self.spec.ragged:
            by_shard = [shard["lengths"].numpy() for shard in shard_list]
            self.lengths = _joined(by_shard, np.dtype(np.int64))
            self._starts = _joined((np.cumsum(n) - n for n in by_shard), np.dtype(np.int64))

    def __reduce__(self) -> tuple[type["FeatureStore"], tuple[object, ...]]:
        # the same shards, whatever other processes have added: rows depend on them
        return type(self), (self.folder, self._pin_memory, self._fields, list(self._shards))

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
            in_place: fields that are given as a `StoredRows` if they are large.

        Returns:
            For each field ``(B, *shape)``, in ragged stores with the token axis padded with zeros
            to N; int8 as float32, else as stored. Ragged stores add ``mask (B, N)`` bool, True on
            tokens, where fields with tokens are read.

        Raises:
            CacheError: a row is not in the store.
        """
        rows = np.asarray(rows, np.int64)
        wrong = (rows < -1) | (rows >= len(self))
        if wrong.any():
            raise CacheError(
                f"The feature store {self.folder} has no row {rows[wrong][0]}: it holds "
                f"{len(self)} items. Add what is missing with `epic-pl cache build`."
            )
        batch: Features = {}
        fields = self.spec.fields if self._fields is None else self._fields
        for field in fields:
            stored = self._stored(field.name, rows)
            nbytes = math.prod(stored.shape[1:]) * stored.dtype.itemsize  # of the largest item
            if field.name in in_place and nbytes >= _LARGE:
                batch[field.name] = stored
            else:
                tensor = stored.gather(self._pin_memory)
                narrower = self._fields is not None
                batch[field.name] = tensor[:, *map(slice, field.shape)] if narrower else tensor
        if any(self.spec.has_token_rows(field) for field in fields):
            lengths = self._lengths_of(rows)
            batch["mask"] = torch.from_numpy(np.arange(max(lengths.max(), 1)) < lengths[:, None])
        return batch

    def _lengths_of(self, rows: Rows) -> Rows:
        assert self.lengths is not None
        return np.where(rows < 0, 0, self.lengths[rows])

    def _stored(self, name: str, rows: Rows) -> StoredRows:
        field = next(field for field in self.spec.fields if field.name == name)
        shape, token_axis = list(field.shape), None
        if self.spec.has_token_rows(field):
            token_axis = field.token_axis or 0
            shape[token_axis] = max(int(self._lengths_of(rows).max()), 1)
        shards = list(self._shards.values())
        numbers = np.searchsorted(self._firsts, rows, side="right") - 1
        absent = self._absent(field, token_axis)
        items = [
            absent if row < 0 else self._item(shards[number], name, row, number, token_axis)
            for row, number in zip(rows.tolist(), numbers.tolist(), strict=True)
        ]
        return StoredRows(items, shape, token_axis)

    def _item(
        self, shard: Tensors, name: str, row: int, number: int, token_axis: int | None
    ) -> StoredItem:
        values, scale = shard[name], shard.get(name + SCALE)
        if token_axis is None:
            item = row - int(self._firsts[number])
            return StoredItem(values[item], None if scale is None else scale[item])
        assert self.lengths is not None
        tokens = slice(self._starts[row], self._starts[row] + self.lengths[row])
        return StoredItem(
            values[tokens].movedim(0, token_axis),
            None if scale is None else scale[tokens].movedim(0, token_axis),
        )

    def _absent(self, field: Field, token_axis: int | None) -> StoredItem:
        """The item of a row -1: zeros, as of one token."""
        shape = list(field.shape)
        if token_axis is not None:
            shape[token_axis] = 1
        values = torch.zeros(shape, dtype=getattr(torch, self.spec.dtype))
        is_int8 = self.spec.dtype == "int8"
        return StoredItem(values, torch.zeros(shape[:-1], dtype=torch.float16) if is_int8 else None)


def _joined(arrays: Iterable[npt.NDArray[np.generic]], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *arrays])
