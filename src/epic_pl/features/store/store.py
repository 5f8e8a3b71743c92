"""The read side: rows of items, and batches of them at the speed of memory.

Shape legend: B items of a batch, N tokens of its longest item, w words of a record.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from epic_pl.errors import CacheError
from epic_pl.features.layout import Layout
from epic_pl.features.spec import StoreSpec, differences
from epic_pl.features.store.buffers import BufferPool
from epic_pl.features.store.gather import Group, Rows, Tokens
from epic_pl.features.store.in_place import read_batch
from epic_pl.features.store.manifest import SPEC, Index, Manifest
from epic_pl.features.store.shard import Shard, digests_of
from epic_pl.types import Features

_MAPPED = 512  # shards at a time: each holds a file descriptor


class FeatureStore:
    """A complete store, mapped into memory and read-only.

    Cheap to open and to pickle: processes share the pages, none copies a table.

    Args:
        folder: the store's own folder.
        pin_memory: gather into page-locked memory, for asynchronous copies to a GPU.
        fields: names of those that are given out, none of which counts tokens; None is all.

    Attributes:
        spec: what the store holds.
        num_items: number of items.
    """

    def __init__(
        self, folder: Path, pin_memory: bool = False, fields: Collection[str] | None = None
    ) -> None:
        manifest, self._index = _opened(folder)
        self.folder, self.spec = folder, manifest.spec
        self._pin_memory, self._fields = pin_memory, fields
        self._layout = Layout.of(manifest.spec)
        self._manifest = manifest
        self.num_items = manifest.index.items
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

    def __reduce__(
        self,
    ) -> tuple[type["FeatureStore"], tuple[Path, bool, Collection[str] | None]]:
        return type(self), (self.folder, self._pin_memory, self._fields)

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

    def gather(
        self, rows: Rows, zero_absent: bool = False, in_place: Collection[str] = ()
    ) -> Features:
        """Read a batch.

        Args:
            rows: (B,) as `rows` gives them, in any order, repeated or not; at least one.
            zero_absent: give zeros, and no tokens, for rows -1, instead of an error.
            in_place: fields that stay where they are stored if they are large, and are read
                there piece by piece.

        Returns:
            For each field ``(B, *shape)``, in ragged stores with the token axis padded with zeros
            to N; int8 as float32, else as stored; a `LazyTensor` where it stays. Ragged stores add
            ``mask (B, N)`` bool, True on tokens. The memory is the caller's for as long as it holds
            the tensors.

        Raises:
            CacheError: a row is not in the store.
        """
        rows = np.asarray(rows, np.int64)
        self._check(rows, zero_absent)
        groups, tokens = self.groups(rows), self.tokens(rows)
        if self._fields is None:
            return read_batch(self._layout, groups, len(rows), tokens, self._buffers, in_place)
        # what nobody asks for stays on the disk
        others = [each.name for each in self.spec.fields if each.name not in self._fields]
        batch = read_batch(self._layout, groups, len(rows), tokens, self._buffers, others)
        return {name: batch[name] for name in self._fields}

    def prefetch(self, rows: Rows) -> None:
        """Ask the system to read these rows from the disk ahead of their gather; returns at once.

        Rows -1 are left out; systems without `madvise` ignore it.
        """
        rows = np.unique(np.asarray(rows, np.int64))
        rows = rows[rows >= 0]
        self._check(rows, False)
        starts = self._index.starts
        for number, positions, items in self._by_shard(rows):
            for row, item in zip(rows[positions], items.tolist(), strict=True):
                start, tokens = (0, 0) if starts is None else (starts[row], self.lengths[row])
                self._shard(number).will_need(item, int(start), int(tokens))

    def _map_shard(self, number: int) -> Shard:
        entry = self._manifest.shards[number]
        return Shard(self.folder / entry.name, self._layout, entry.items)

    def _check(self, rows: Rows, allow_absent: bool) -> None:
        wrong = (rows < (-1 if allow_absent else 0)) | (rows >= self.num_items)
        if wrong.any():
            raise CacheError(
                f"The feature store {self.folder} has no row {rows[wrong][0]}: it holds "
                f"{self.num_items} items, and -1 stands for an item that it does not have. Add "
                "what is missing with `epic-pl cache build`."
            )

    def groups(self, rows: Rows) -> list[Group]:
        """Rows by the file in which they lie; rows -1 are in none."""
        return [
            Group(_Mapped(self._shard, number), positions, items)
            for number, positions, items in self._by_shard(rows)
        ]

    def tokens(self, rows: Rows) -> Tokens | None:
        """Where the rows' tokens lie, none for rows -1; None unless ragged."""
        if self._index.starts is None:
            return None
        present = np.maximum(rows, 0)
        return Tokens(np.where(rows < 0, 0, self.lengths[present]), self._index.starts[present])

    def _by_shard(self, rows: Rows) -> Iterator[tuple[int, Rows, Rows]]:
        """Number of a shard, positions in ``rows``, and items in the shard."""
        numbers = self.shard_of(rows)  # -1 for rows -1
        for number in np.unique(numbers[numbers >= 0]).tolist():
            positions = np.flatnonzero(numbers == number)
            yield number, positions, rows[positions] - self._firsts[number]


@dataclass(frozen=True)
class _Mapped:
    """A shard by its number: a batch that is read in place keeps no file open."""

    shard: Callable[[int], Shard]
    number: int

    @property
    def items(self) -> Tensor:
        """(n, words) int64."""
        return self.shard(self.number).items

    @property
    def tokens(self) -> Tensor:
        """(T, words) int64."""
        return self.shard(self.number).tokens


def _opened(folder: Path) -> tuple[Manifest, Index]:
    """What a store consists of; read again where another process has published more meanwhile."""
    manifest = _complete(folder)
    while True:
        try:
            manifest.check_files(folder)
            index = manifest.index
            return manifest, Index(folder / index.name, index.items, manifest.spec.ragged)
        except (CacheError, FileNotFoundError) as error:
            before, manifest = manifest, _complete(folder)
            if manifest == before and isinstance(error, CacheError):
                raise


def _complete(folder: Path) -> Manifest:
    manifest = Manifest.read(folder)
    if manifest is None:
        raise CacheError(
            f"The feature store {folder} is not complete: its manifest is missing. Go on with "
            "`epic-pl cache build`, which keeps what is already there."
        )
    return manifest


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
