"""Filling stores: by any number of processes, killed and continued at will, to the same bytes."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from epic_pl.assets import cache_dir
from epic_pl.errors import CacheError
from epic_pl.features.store.manifest import SPEC
from epic_pl.features.store.progress import require_disk
from epic_pl.features.store.reader import FeatureStore
from epic_pl.features.store.spec import StoreSpec
from epic_pl.features.store.writer import Produce, Writer

SHARD_BYTES = 256_000_000
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def default_root() -> Path:
    """The folder of all stores, unless told otherwise."""
    return cache_dir() / "features"


@dataclass(frozen=True)
class Wanted:
    """What a store must have.

    Attributes:
        spec: of the store.
        hashes: one string for each item, by its content; repeated ones are stored once.
        produce: takes positions in ``hashes``; returns for each field ``(B, *shape)`` floating
            point on any device, and for ragged stores, whose token axes hold the longest of the
            batch, the B lengths, else None. It must depend on nothing but the items.
        serves: whether a store of another spec has all these fields of its items too.
    """

    spec: StoreSpec
    hashes: Sequence[str]
    produce: Produce
    serves: Callable[[StoreSpec], bool] = lambda spec: False

    def other_store(self, root: Path, pin_memory: bool) -> FeatureStore | None:
        """A complete store of another spec that serves, unless its own is complete."""
        own = self.spec.folder(root)
        paths = sorted(root.glob(f"{self.spec.kind}-*/{SPEC}"))
        for folder in [own, *(path.parent for path in paths if path.parent != own)]:
            with suppress(CacheError):  # missing, incomplete, damaged, or of another version
                spec = StoreSpec.read(folder / SPEC)
                if folder != spec.folder(root) or not (folder == own or self.serves(spec)):
                    continue
                store = FeatureStore(folder, pin_memory, self.spec.fields)
                if (store.rows(self.hashes) >= 0).all():
                    return None if folder == own else store
        return None

    def open(self, root: Path, pin_memory: bool) -> FeatureStore:
        """Open its own store.

        Raises:
            CacheError: it is missing or damaged, or lacks items.
        """
        store = FeatureStore(self.spec.folder(root), pin_memory)
        if absent := int((store.rows(self.hashes) < 0).sum()):
            raise CacheError(
                f"The feature store {store.folder} lacks {absent:,} of {len(self.hashes):,} items "
                "and cannot be written. Correct its permissions, or choose another cache folder."
            )
        return store


def build(
    root: Path,
    wanted: Sequence[Wanted],
    *,
    batch_size: int = 64,
    shard_bytes: int = SHARD_BYTES,
    rank: int = 0,
    world_size: int = 1,
    progress: bool = True,
    barrier: Callable[[], None] = lambda: None,
    pin_memory: bool = False,
) -> list[FeatureStore]:
    """Fill stores with the items that they lack, and open them.

    What is already there is kept; new items are appended in the order in which they are first
    given. The bytes depend on the spec, the items, ``batch_size`` and ``shard_bytes`` alone: not
    on the number of processes, nor on how often they were killed. Processes share the work through
    file locks, so ranks need no process group, and two builds at once help each other.

    Args:
        root: the folder of all stores; ranks must see the same one.
        wanted: one entry for each store. The sizes of all are compared with the free disk first.
        batch_size: number of items that are produced at a time.
        shard_bytes: largest size of a file.
        rank: of this process; it starts with every ``world_size``-th shard, then helps others.
        world_size: number of processes.
        progress: print the estimate and a progress bar, on rank 0.
        barrier: called by each process before anything is written, and once all stores are
            complete.
        pin_memory: of the stores that are opened.

    Raises:
        CacheError: too little disk is free, an existing store is damaged, or a number is not
            finite once stored.
    """
    if not all(each.hashes for each in wanted):
        raise CacheError("There is nothing to store: no item was given.")
    show = progress and rank == 0
    others = [each.other_store(root, pin_memory) for each in wanted]
    writers = [
        Writer(root, each.spec, each.hashes, each.produce, batch_size, shard_bytes)
        for each, other in zip(wanted, others, strict=True)
        if other is None and _may_grow(each.spec.folder(root))
    ]
    additions = []
    for writer in writers:
        with _disk_errors(writer.folder):
            additions.append(writer.addition())
    require_disk(root, additions, show)
    barrier()
    for writer in writers:
        with _disk_errors(writer.folder):
            writer.write(rank, world_size, show)
    barrier()
    return [
        each.open(root, pin_memory) if other is None else other
        for each, other in zip(wanted, others, strict=True)
    ]


def _may_grow(folder: Path) -> bool:
    return not folder.is_dir() or os.access(folder, os.W_OK)


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Raise what the system refuses to do with a store as a CacheError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS and str(folder) not in str(error.filename):
            raise  # of `produce`, for example a picture that is missing
        raise CacheError(
            f"The feature store {folder} could not be written ({error}). Free some disk space or "
            "correct the folder's permissions, then start again: what is written is kept."
        ) from error
