"""A store that is filled while it is read: what it lacks is encoded, served, and written later.

Shape legend: B items of a batch, n items and T tokens of a shard, w words of a record.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from threading import RLock

import numpy as np
import torch
from torch import Tensor

from epic_pl.features.builder import SHARD_BYTES, append
from epic_pl.features.layout import Layout
from epic_pl.features.spec import StoreSpec
from epic_pl.features.store.buffers import BufferPool
from epic_pl.features.store.codec import Words
from epic_pl.features.store.gather import Group, Rows, Tokens
from epic_pl.features.store.in_place import read_batch
from epic_pl.features.store.manifest import MANIFEST
from epic_pl.features.store.packer import Packer, Produce
from epic_pl.features.store.shard import Packed
from epic_pl.features.store.store import FeatureStore
from epic_pl.types import Features


class GrowingStore:
    """Gathers batches of any items, stored or not.

    What is missing is encoded at once and kept, packed as in the store, until a shard is full or
    :meth:`flush` is called; so an item's numbers are the same before it is written and after. One
    process may fill a store like this, in any number of threads that take turns; what others add
    meanwhile is seen after the next flush. A batch holds on to the memory that it is read from.

    Args:
        root: the folder of all stores.
        spec: what the store holds.
        batch_size: items that are encoded at a time.
        shard_bytes: bytes that are kept in memory at most, but for the last batch.
        pin_memory: gather into page-locked memory.

    Attributes:
        spec: what the store holds.
        nbytes_in_memory: of what is not written yet.

    Raises:
        CacheError: the store on the disk is damaged.
    """

    def __init__(
        self,
        root: Path,
        spec: StoreSpec,
        batch_size: int = 64,
        shard_bytes: int = SHARD_BYTES,
        pin_memory: bool = False,
    ) -> None:
        self._root, self.spec, self._layout = root, spec, Layout.of(spec)
        self._batch_size, self._shard_bytes = batch_size, shard_bytes
        self._pin_memory = pin_memory
        self._buffers = BufferPool(pin_memory)
        whole = (spec.folder(root) / MANIFEST).exists()
        self._store = FeatureStore.open(root, spec, pin_memory) if whole else None
        self._shards: list[_MemoryShard] = []
        self._places: dict[str, tuple[int, int]] = {}  # shard and item in it
        self.nbytes_in_memory = 0
        # a loader's thread gathers while the main one writes at a checkpoint, or validates
        self._turn = RLock()

    def gather(
        self, hashes: Sequence[str | None], produce: Produce, in_place: Collection[str] = ()
    ) -> Features:
        """A batch as `FeatureStore.gather` gives it, with zeros where the hash is None.

        Args:
            hashes: (B,) one string an item, by its content; at least one.
            produce: gives the tensors of positions in ``hashes``, as for `build`.
            in_place: fields that stay where they are if they are large.

        Raises:
            CacheError: a full shard cannot be written, or what ``produce`` gives does not fit the
                spec or is not finite.
        """
        with self._turn:
            rows = self._rows(hashes)
            missing = {
                name: position
                for position, name in enumerate(hashes)
                if name is not None and rows[position] < 0 and name not in self._places
            }
            names, places = list(missing), list(missing.values())
            pack = Packer(self._layout, names, lambda some: produce([places[one] for one in some]))
            self._encode(names, pack)
            batch = self._gather(hashes, rows, in_place)
            if self.nbytes_in_memory >= self._shard_bytes:
                self.flush()
            return batch

    def lacking(self, hashes: Sequence[str]) -> int:
        """How many of these different items would have to be encoded."""
        with self._turn:
            rows = self._rows(hashes).tolist()
            pairs = zip(hashes, rows, strict=True)
            return sum(row < 0 and name not in self._places for name, row in pairs)

    def flush(self) -> None:
        """Write what is only in memory.

        Raises:
            CacheError: it cannot be written.
        """
        with self._turn:
            if not self._places:
                return
            names, places = list(self._places), list(self._places.values())

            def pack(positions: Sequence[int]) -> Packed:
                picked = [places[position] for position in positions]
                records = [self._shards[number].pick(item) for number, item in picked]
                return _joined(records, self.spec.ragged)

            self._store = append(
                self._root, self.spec, names, pack, self._shard_bytes, self._pin_memory
            )
            self._shards, self._places, self.nbytes_in_memory = [], {}, 0

    def _rows(self, hashes: Sequence[str | None]) -> Rows:
        """(B,) rows on the disk, -1 where there is none."""
        if self._store is None:
            return np.full(len(hashes), -1)
        rows = self._store.rows([name or "" for name in hashes])
        return np.where([name is None for name in hashes], -1, rows)

    def _encode(self, names: list[str], pack: Packer) -> None:
        for start in range(0, len(names), self._batch_size):
            some = names[start : start + self._batch_size]
            shard = _MemoryShard(pack(range(start, start + len(some))))
            self._places |= {name: (len(self._shards), item) for item, name in enumerate(some)}
            self._shards.append(shard)
            self.nbytes_in_memory += shard.nbytes

    def _gather(
        self, hashes: Sequence[str | None], rows: Rows, in_place: Collection[str]
    ) -> Features:
        groups, tokens = [], None
        if self._store is not None:
            groups, tokens = self._store.groups(rows), self._store.tokens(rows)
        if self.spec.ragged and tokens is None:
            tokens = Tokens(np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64))
        by_shard: dict[int, list[tuple[int, int]]] = {}
        for position, name in enumerate(hashes):
            if name is not None and rows[position] < 0:
                number, item = self._places[name]
                by_shard.setdefault(number, []).append((position, item))
        for number, pairs in by_shard.items():
            positions, items = np.array(pairs).T
            shard = self._shards[number]
            groups.append(Group(shard, positions, items))
            if tokens is not None:
                tokens.lengths[positions] = shard.lengths[items]
                tokens.starts[positions] = shard.starts[items]
        return read_batch(self._layout, groups, len(rows), tokens, self._buffers, in_place)


class _MemoryShard:
    """Items that are not written yet: their records, and where each one's tokens are."""

    def __init__(self, packed: Packed) -> None:
        # arrays, as a tensor made in inference mode could not be trained from
        self._item_rows, self._token_rows, counts = packed
        self.nbytes = self._item_rows.nbytes + self._token_rows.nbytes
        self.lengths: Rows = np.zeros(len(self._item_rows), np.int64)
        if counts is not None:
            self.lengths += counts
        self.starts: Rows = np.cumsum(self.lengths) - self.lengths

    @property
    def items(self) -> Tensor:
        """(n, w) int64."""
        return torch.from_numpy(self._item_rows)

    @property
    def tokens(self) -> Tensor:
        """(T, w) int64."""
        return torch.from_numpy(self._token_rows)

    def pick(self, item: int) -> tuple[Words, Words]:
        """Records of one item (1, w), and of its tokens."""
        start = self.starts[item]
        stop = start + self.lengths[item]
        return self._item_rows[item : item + 1], self._token_rows[start:stop]


def _joined(picked: Sequence[tuple[Words, Words]], ragged: bool) -> Packed:
    items, tokens = zip(*picked, strict=True)
    lengths = np.array([len(each) for each in tokens], np.int32) if ragged else None
    return np.concatenate(items), np.concatenate(tokens), lengths
