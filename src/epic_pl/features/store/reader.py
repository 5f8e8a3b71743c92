"""The read side: rows of items, and batches of them at the speed of memory.

Shape legend: B items of a batch, N tokens of its longest item.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from epic_pl.errors import CacheError
from epic_pl.features.store.gather import Group, Rows, Tokens
from epic_pl.features.store.lazy import read_batch
from epic_pl.features.store.manifest import Index, Manifest
from epic_pl.features.store.memory import BufferPool
from epic_pl.features.store.records import Layout
from epic_pl.features.store.shard import Shard, digests_of
from epic_pl.features.store.spec import Field
from epic_pl.types import Features

_MAPPED = 512  # shards at a time: each holds a file descriptor


class FeatureStore:
    """A complete store, mapped into memory and read-only.

    Cheap to open and to pickle: processes share the pages, none copies a table.

    Args:
        folder: the store's own folder.
        pin_memory: gather into page-locked memory, for asynchronous copies to a GPU.
        fields: the fields to read, without token axes; None reads all. Of a field that is stored
            with a larger shape the first entries of each axis are read.

    Attributes:
        spec: what the store holds.

    Raises:
        CacheError: the store is missing, incomplete or changed, or a file of it is truncated.
    """

    def __init__(
        self, folder: Path, pin_memory: bool = False, fields: Sequence[Field] | None = None
    ) -> None:
        self._manifest, self._index = _opened(folder)
        self.folder, self.spec = folder, self._manifest.spec
        if folder.name != self.spec.folder(folder.parent).name:
            raise CacheError(
                f"The feature store {folder} holds something else than its name says. Remove it "
                "with `epic-pl cache clear`."
            )
        self._pin_memory, self._fields = pin_memory, fields
        self._layout = Layout.of(self.spec)
        self._firsts = np.cumsum([0, *(shard.items for shard in self._manifest.shards)])
        self._shard = lru_cache(_MAPPED)(self._map_shard)
        self._buffers = BufferPool(pin_memory)

    def __reduce__(
        self,
    ) -> tuple[type["FeatureStore"], tuple[Path, bool, Sequence[Field] | None]]:
        return type(self), (self.folder, self._pin_memory, self._fields)

    def __len__(self) -> int:
        return self._manifest.index.items

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """(items,) tokens of each row; the same for all unless ragged."""
        if self._index.lengths is not None:
            return self._index.lengths
        return np.broadcast_to(np.int32(self.spec.max_tokens), len(self))

    def rows(self, hashes: Sequence[str]) -> Rows:
        """(len(hashes),) row of each item, -1 where the store does not have it."""
        return self._index.rows(digests_of(hashes))

    def gather(self, rows: Rows, in_place: Collection[str] = ()) -> Features:
        """Read a batch.

        Args:
            rows: (B,) as `rows` gives them, in any order, repeated or not; at least one. Rows -1
                give zeros, and no tokens.
            in_place: fields that are given as a `LazyTensor` if they are large.

        Returns:
            For each field ``(B, *shape)``, in ragged stores with the token axis padded with zeros
            to N; int8 as float32, else as stored. Ragged stores add ``mask (B, N)`` bool, True on
            tokens, where fields with tokens are read. The caller owns the memory for as long as it
            holds the tensors.

        Raises:
            CacheError: a row is not in the store.
        """
        rows = np.asarray(rows, np.int64)
        self._check(rows)
        groups, tokens = self._groups(rows), self._tokens(rows)
        if self._fields is None:
            return read_batch(self._layout, groups, len(rows), tokens, self._buffers, in_place)
        wanted = {field.name: field.shape for field in self._fields}
        rest = self._layout.only(wanted)
        batch = read_batch(rest, groups, len(rows), None, self._buffers, ())
        return {name: batch[name][:, *map(slice, shape)] for name, shape in wanted.items()}

    def prefetch(self, rows: Rows) -> None:
        """Ask the system to read these rows from the disk ahead of their gather; returns at once.

        Rows -1 are left out; systems without `madvise` ignore it.
        """
        rows = np.unique(np.asarray(rows, np.int64))
        self._check(rows)
        rows = rows[rows >= 0]
        starts = self._index.starts
        for number, positions, items in self._by_shard(rows):
            for row, item in zip(rows[positions], items.tolist(), strict=True):
                start, tokens = (0, 0) if starts is None else (starts[row], self.lengths[row])
                self._shard(number).will_need(item, int(start), int(tokens))

    def _map_shard(self, number: int) -> Shard:
        entry = self._manifest.shards[number]
        return Shard(self.folder / entry.name, self._layout, entry.items)

    def _check(self, rows: Rows) -> None:
        wrong = (rows < -1) | (rows >= len(self))
        if wrong.any():
            raise CacheError(
                f"The feature store {self.folder} has no row {rows[wrong][0]}: it holds "
                f"{len(self)} items. Add what is missing with `epic-pl cache build`."
            )

    def _groups(self, rows: Rows) -> list[Group]:
        """Rows by their shard; rows -1 are in none."""
        return [
            Group(_Mapped(self._shard, number), positions, items)
            for number, positions, items in self._by_shard(rows)
        ]

    def _tokens(self, rows: Rows) -> Tokens | None:
        """Position of the rows' tokens, none for rows -1; None unless ragged."""
        if self._index.starts is None:
            return None
        present = np.maximum(rows, 0)
        return Tokens(np.where(rows < 0, 0, self.lengths[present]), self._index.starts[present])

    def _by_shard(self, rows: Rows) -> Iterator[tuple[int, Rows, Rows]]:
        """Number of a shard, positions in ``rows``, and items in the shard."""
        numbers = np.searchsorted(self._firsts, rows, side="right") - 1  # -1 for rows -1
        for number in np.unique(numbers[numbers >= 0]).tolist():
            positions = np.flatnonzero(numbers == number)
            yield number, positions, rows[positions] - self._firsts[number]


@dataclass(frozen=True)
class _Mapped:
    """A shard by its number, so that a lazy tensor keeps no file open."""

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
    """Manifest and index; read again where another process has published meanwhile."""
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
            f"The feature store {folder} is not complete: its manifest is missing. Continue with "
            "`epic-pl cache build`, which keeps what is already there."
        )
    return manifest
