"""Reading of a feature store: positions of items, and batches of their features.

Shape legend: B items of a batch, N tokens of its longest item.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from epic_pl.features.store.shard import Digests, digests_of, open_shard
from epic_pl.features.store.spec import Field, StoreSpec
from epic_pl.utils.types import Features

Indices = npt.NDArray[np.int64]
_LARGE = 1 << 17  # numbers per item from which a product for each item costs nothing extra


class FeatureStore:
    """The items of a store, mapped into memory and read-only.

    Damaged shards are left out with a warning; filling writes them again.

    Args:
        folder: folder of the store.
        fields: the fields to read; None reads all.
        wanted: hashes of items; files that have none of them are left out. None opens all.
        shards: names of files that another process has opened and verified; None opens all.

    Attributes:
        spec: description of the store.
        digests: digests of its items, in the order of places.

    Raises:
        CacheError: if there is no such store.
    """

    def __init__(
        self,
        folder: Path,
        fields: Sequence[Field] | None = None,
        wanted: Sequence[str] | None = None,
        shards: Sequence[str] | None = None,
    ) -> None:
        self.folder, self.spec = folder, StoreSpec.read(folder)
        self._fields = self.spec.fields if fields is None else fields
        names = sorted(path.name for path in folder.glob("shard-*")) if shards is None else shards
        keys = frozenset(digests_of(wanted or ()).tolist())
        verified = self._fields if shards is None else ()
        with ThreadPoolExecutor() as pool:  # the checksums' threads run at once
            opened = pool.map(lambda n: open_shard(folder / n, self.spec, verified, keys), names)
            found = [(name, shard) for name, shard in zip(names, opened, strict=True) if shard]
        self._names, self._shards = [name for name, _ in found], [shard for _, shard in found]
        digests = [shard["digests"].numpy() for shard in self._shards]
        self.digests: Digests = digests_of(())
        if digests:
            self.digests = np.concatenate(digests).view(self.digests.dtype)[:, 0]
        self._order = np.argsort(self.digests, kind="stable")
        # for each item: its shard, its index in it, and the index of its first token
        counts = [*map(len, digests)]
        self._shard = np.repeat(np.arange(len(counts)), counts)
        self._index = _concatenate(map(np.arange, counts))
        lengths = [shard["lengths"].numpy() for shard in self._shards if self.spec.ragged]
        self._lengths = _concatenate(lengths)
        self._start = _concatenate(np.cumsum(tokens) - tokens for tokens in lengths)

    def __reduce__(self) -> tuple[type["FeatureStore"], tuple[object, ...]]:
        # places depend on the shards, so open the same ones even if other processes have added some
        return type(self), (self.folder, self._fields, None, self._names)

    def __len__(self) -> int:
        return len(self.digests)

    def find(self, hashes: Sequence[str]) -> Indices:
        """Place of each item in the store; -1 if the store lacks it."""
        digests = digests_of(hashes)
        if len(self) == 0:
            return np.full(len(digests), -1)
        at = np.searchsorted(self.digests, digests, sorter=self._order)
        places = self._order[np.minimum(at, len(self) - 1)]
        return np.where(self.digests[places] == digests, places, -1)

    def gather(self, places: Indices, in_place: Collection[str] = ()) -> Features:
        """Read the fields of a batch.

        Args:
            places: places ``(B,)`` from :meth:`find`, in any order, also repeated; at least one.
                Place -1 gives zeros and no tokens.
            in_place: fields to return as lists of B memory-mapped tensors if they are large.

        Returns:
            For each field ``(B, *shape)``, in ragged stores with the token axis padded with zeros
            to N. Ragged stores add ``mask (B, N)`` bool, True on tokens, where fields with tokens
            are read.
        """
        batch: Features = {}
        for field in self._fields:
            name, axis = field.name, self.spec.ragged_axis(field)
            ragged = axis is not None
            parts = self._parts(name, places, ragged)
            if name in in_place and math.prod(field.shape) >= _LARGE:
                batch[name] = [part[0] if axis is None else part.movedim(0, axis) for part in parts]
                continue
            # parts as one tensor (B, ...), in which tokens (B, N, ...) are padded with zeros
            values = pad_sequence(parts, batch_first=True) if ragged else torch.cat(parts)
            batch[name] = values if axis is None else values.movedim(1, axis + 1)
        if any(self.spec.ragged_axis(field) is not None for field in self._fields):
            lengths = np.where(places < 0, 0, self._lengths[places])
            batch["mask"] = torch.from_numpy(np.arange(max(lengths.max(), 1)) < lengths[:, None])
        return batch

    def _parts(self, name: str, places: Indices, ragged: bool) -> list[Tensor]:
        """The mapped part of a tensor that belongs to each item: its tokens, or ``(1, *shape)``."""
        parts, starts = [], self._start if ragged else self._index
        for place in places.tolist():
            stored = self._shards[self._shard[place]][name]
            count = self._lengths[place] if ragged else 1
            part = stored[starts[place] : starts[place] + count]
            parts.append(part if place >= 0 else stored.new_zeros(1, *stored.shape[1:]))
        return parts


def _concatenate(arrays: Iterable[Indices]) -> Indices:
    return np.concatenate([np.empty(0, np.int64), *arrays])
