"""The read side: rows of items, and batches of them at the speed of memory.

Shape legend: B items of a batch, N tokens of its longest item, w words of a record.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from epic_pl.cache.buffers import BufferPool
from epic_pl.cache.gather import Group, Rows, gather_items, gather_tokens
from epic_pl.cache.layout import Layout
from epic_pl.cache.manifest import SPEC, Index, Manifest
from epic_pl.cache.shard import Shard, digests_of
from epic_pl.cache.spec import StoreSpec, differences
from epic_pl.errors import CacheError

_MAPPED = 512  # shards at a time: each holds a file descriptor


class FeatureStore:
    """A complete store, mapped into memory and read-only.

    Cheap to open and to pickle: processes share the pages, none copies a table.

    Args:
        folder: the store's own folder.
        pin_memory: gather into page-locked memory, for asynchronous copies to a GPU.

    Attributes:
        spec: what the store holds.
        num_items: number of items.
    """

    def __init__(self, folder: Path, pin_memory: bool = False) -> None:
        manifest = Manifest.read(folder)
        if manifest is None:
            raise CacheError(
                f"The feature store {folder} is not complete: its manifest is missing. Go on with "
                "`epic-pl cache build`, which keeps what is already there."
            )
        manifest.check_files(folder)
        self.folder, self.spec = folder, manifest.spec
        self._pin_memory = pin_memory
        self._layout = Layout.of(manifest.spec)
        self._manifest = manifest
        self.num_items = manifest.index.items
        self._index = Index(folder / manifest.index.name, self.num_items, self.spec.ragged)
        self._firsts = np.cumsum([0, *(shard.items for shard in manifest.shards)])
        self._shard = lru_cache(_MAPPED)(self._map_shard)
        self._buffers = BufferPool(pin_memory)

    @classmethod
    def open(cls, root: Path, spec: StoreSpec, pin_memory: bool = False) -> "FeatureStore":
        """Open the store of a spec.

        Args:
            root: the folder of all stores.
            spec: what the store must hold.
            pin_memory: gather into page-locked memory, for asynchronous copies to a GPU.

        Raises:
            CacheError: it is missing (the message compares the nearest other store), incomplete,
                changed, or a file of it is truncated.
        """
        folder = spec.folder(root)
        if not folder.is_dir():
            raise CacheError(_missing(root, spec))
        store = cls(folder, pin_memory)
        if unlike := differences(store.spec.to_json(), spec.to_json()):
            raise CacheError(
                f"The feature store {folder} holds something else than its name says: "
                f"{'; '.join(unlike)}. Remove it with `epic-pl cache clear`."
            )
        return store

    def __reduce__(self) -> tuple[type["FeatureStore"], tuple[Path, bool]]:
        return type(self), (self.folder, self._pin_memory)

    def __len__(self) -> int:
        return self.num_items

    @property
    def nbytes(self) -> int:
        """Bytes of all shards on the disk."""
        return self._manifest.nbytes

    @property
    def bytes_per_item(self) -> float:
        """Mean bytes of an item on the disk."""
        return self.nbytes / self.num_items

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """(items,) tokens of each row; the same for all unless ragged."""
        if self._index.lengths is not None:
            return self._index.lengths
        return np.broadcast_to(np.int32(self.spec.max_tokens), self.num_items)

    def rows(self, hashes: Sequence[str]) -> Rows:
        """(len(hashes),) row of each item, -1 where the store does not have it."""
        return self._index.rows(digests_of(hashes))

    def shard_of(self, rows: Rows) -> Rows:
        """(B,) number of the file in which each row lies, for orders that read file by file."""
        return np.searchsorted(self._firsts, rows, side="right") - 1

    def gather(self, rows: Rows, zero_absent: bool = False) -> dict[str, Tensor]:
        """Read a batch.

        Args:
            rows: (B,) as `rows` gives them, in any order, repeated or not; at least one.
            zero_absent: give zeros, and no tokens, for rows -1, instead of an error.

        Returns:
            For each field ``(B, *shape)``, in ragged stores with the token axis padded with zeros
            to N; int8 as float32, else as stored. Ragged stores add ``mask (B, N)`` bool, True
            on tokens. The memory is the caller's for as long as it holds the tensors.

        Raises:
            CacheError: a row is not in the store.
        """
        rows = np.asarray(rows, np.int64)
        absent = self._absent(rows, zero_absent)
        present = np.where(absent, 0, rows)
        groups = self._groups(present)
        batch = gather_items(self._layout.item, groups, len(rows), self._buffers)
        if absent.any():
            for tensor in batch.values():
                tensor.index_fill_(0, torch.from_numpy(np.flatnonzero(absent)), 0)
        if self._index.starts is None:
            return batch
        lengths = np.where(absent, 0, self.lengths[present])
        mask = np.arange(max(int(lengths.max()), 1)) < lengths[:, None]  # (B, N)
        starts = self._index.starts[present]
        tokens = gather_tokens(self._layout.token, groups, starts, mask, self._buffers)
        for field in self.spec.fields:
            if field.token_axis is not None:
                batch[field.name] = tokens[field.name].movedim(1, field.token_axis + 1)
        return batch | {"mask": torch.from_numpy(mask)}

    def prefetch(self, rows: Rows) -> None:
        """Ask the system to read these rows from the disk ahead of their gather; returns at once.

        Rows -1 are left out; systems without `madvise` ignore it.
        """
        rows = np.unique(np.asarray(rows, np.int64))
        rows = rows[rows >= 0]
        self._absent(rows, False)
        starts = self._index.starts
        for group in self._groups(rows):
            for row, item in zip(rows[group.positions], group.items.tolist(), strict=True):
                start, tokens = (0, 0) if starts is None else (starts[row], self.lengths[row])
                group.shard.will_need(item, int(start), int(tokens))

    def _map_shard(self, number: int) -> Shard:
        entry = self._manifest.shards[number]
        return Shard(self.folder / entry.name, self._layout, entry.items)

    def _absent(self, rows: Rows, allowed: bool) -> npt.NDArray[np.bool_]:
        absent = rows < 0
        wrong = (rows < -1) | (rows >= self.num_items)
        if not allowed:
            wrong |= absent
        if wrong.any():
            raise CacheError(
                f"The feature store {self.folder} has no row {rows[wrong][0]}: it holds "
                f"{self.num_items} items, and -1 stands for an item that it does not have. Add "
                "what is missing with `epic-pl cache build`."
            )
        return absent

    def _groups(self, rows: Rows) -> list[Group]:
        numbers = self.shard_of(rows)
        groups: list[Group] = []
        for number in np.unique(numbers).tolist():
            positions = np.flatnonzero(numbers == number)
            items = rows[positions] - self._firsts[number]
            groups.append(Group(self._shard(number), positions, items))
        return groups


def _missing(root: Path, spec: StoreSpec) -> str:
    nearest: list[str] | None = None
    for path in root.glob(f"{spec.kind}-*/{SPEC}"):
        try:
            unlike = differences(StoreSpec.read(path).to_json(), spec.to_json())
        except CacheError:  # of another version; it could not be meant
            continue
        if nearest is None or len(unlike) < len(nearest):
            nearest = [f"{path.parent.name} has {entry}" for entry in unlike]
    hint = f" The nearest that is there: {'; '.join(nearest)}." if nearest else ""
    return (
        f"There is no {spec.kind} feature store {spec.key} in {root}.{hint} Build it with "
        "`epic-pl cache build`, or switch the cache off."
    )
