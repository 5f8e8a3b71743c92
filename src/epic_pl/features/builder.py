"""Filling a store: by any number of processes, killed and continued at will, to the same bytes."""

import errno
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epic_pl.errors import CacheError
from epic_pl.features.estimate import Addition, require_disk
from epic_pl.features.layout import Layout
from epic_pl.features.spec import StoreSpec
from epic_pl.features.store.manifest import SPEC, richer_specs, write_json
from epic_pl.features.store.packer import Packer, Produce
from epic_pl.features.store.publishing import publish
from epic_pl.features.store.store import FeatureStore
from epic_pl.features.store.writer import Writer

SHARD_BYTES = 256_000_000
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


@dataclass(frozen=True)
class Wanted:
    """What a store must have: a spec, its items, and who gives them; see `build`.

    Another store may stand in for it that has these items, and these fields among others: one
    whose identity differs in the entries ``free`` alone, on which the fields do not depend.
    """

    spec: StoreSpec
    hashes: Sequence[str]
    produce: Produce
    free: Collection[str] = ()

    def stand_in(self, root: Path, pin_memory: bool) -> FeatureStore | None:
        """A complete store with more in it, if there is one and its own lacks items."""
        names = [field.name for field in self.spec.fields]
        for spec in [self.spec, *richer_specs(root, self.spec, self.free)] if self.free else []:
            with suppress(CacheError):  # missing, incomplete or damaged
                store = FeatureStore(spec.folder(root), pin_memory, names)
                if (store.rows(self.hashes) >= 0).all():
                    return None if spec is self.spec else store
        return None

    def may_grow(self, root: Path) -> bool:
        """Whether the store may be written to; else it must have everything."""
        folder = self.spec.folder(root)
        return not folder.is_dir() or os.access(folder, os.W_OK)

    def writer(self, root: Path, batch_size: int, shard_bytes: int) -> Writer:
        """What writes its shards."""
        layout = Layout.of(self.spec)
        pack = Packer(layout, self.hashes, self.produce)
        folder = self.spec.folder(root)
        return Writer(folder, layout, self.hashes, pack, batch_size, shard_bytes)

    def open(self, root: Path, pin_memory: bool) -> FeatureStore:
        """The store, if it has all items.

        Raises:
            CacheError: it is missing or damaged, or lacks items.
        """
        store = FeatureStore.open(root, self.spec, pin_memory)
        if absent := int((store.rows(self.hashes) < 0).sum()):
            raise CacheError(
                f"The feature store {store.folder} lacks {absent:,} of {len(self.hashes):,} items "
                "and cannot be written. Mend its permissions, or choose another cache folder."
            )
        return store


def build(
    root: Path,
    spec: StoreSpec,
    hashes: Sequence[str],
    produce: Produce,
    *,
    batch_size: int = 64,
    shard_bytes: int = SHARD_BYTES,
    rank: int = 0,
    world_size: int = 1,
    progress: bool = True,
    barrier: Callable[[], None] | None = None,
    pin_memory: bool = False,
) -> FeatureStore:
    """Make sure that a store has these items, and open it.

    What is already there is kept; new items are appended in the order in which they are first
    given. The bytes depend on the spec, the items, ``batch_size`` and ``shard_bytes`` alone: not
    on the number of processes, nor on how often they were killed. Processes share the work out
    through file locks, so ranks need no process group, and two builds at once help each other.

    Args:
        root: the folder of all stores; ranks must see the same one.
        spec: what the store holds.
        hashes: one string an item, by its content; repeated ones are stored once.
        produce: takes positions in ``hashes``; gives for each field ``(B, *shape)`` floating
            point on any device, and for ragged stores, whose token axes hold the longest of the
            batch, the B lengths; else None. It must depend on nothing but the items.
        batch_size: items that ``produce`` is asked for at a time.
        shard_bytes: largest size of a file.
        rank: of this process; it starts with every ``world_size``-th shard, then helps others.
        world_size: number of processes.
        progress: print the estimate and a progress bar, on rank 0.
        barrier: called by each process before anything is written, and once the store is complete.
        pin_memory: of the store that is opened.

    Raises:
        CacheError: too little disk is free, the existing store is damaged, or what ``produce``
            gives does not fit the spec or is not finite.
    """
    options: dict[str, Any] = {"batch_size": batch_size, "shard_bytes": shard_bytes}
    options |= {"rank": rank, "world_size": world_size, "progress": progress}
    wanted = Wanted(spec, hashes, produce)
    return build_all(root, [wanted], barrier=barrier, pin_memory=pin_memory, **options)[0]


def build_all(
    root: Path,
    wanted: Sequence[Wanted],
    *,
    batch_size: int = 64,
    shard_bytes: int = SHARD_BYTES,
    rank: int = 0,
    world_size: int = 1,
    progress: bool = True,
    barrier: Callable[[], None] | None = None,
    pin_memory: bool = False,
) -> list[FeatureStore]:
    """As `build`, for several stores, whose sizes are looked at together before any is written.

    ``barrier`` is called twice: before the first byte is written, and once all are complete. What
    another store has already (:class:`Wanted`) is read there and not written again.
    """
    wait = barrier or (lambda: None)
    if not all(each.hashes for each in wanted):
        raise CacheError("There is nothing to store: no item was given.")
    show = progress and rank == 0
    found = [each.stand_in(root, pin_memory) for each in wanted]
    writers = [
        each.writer(root, batch_size, shard_bytes)
        for each, store in zip(wanted, found, strict=True)
        if store is None and each.may_grow(root)
    ]
    require_disk(root, [_addition(writer) for writer in writers], show)
    wait()
    for writer in writers:
        _write(writer, rank, world_size, show)
    wait()
    return [
        each.open(root, pin_memory) if store is None else store
        for each, store in zip(wanted, found, strict=True)
    ]


def _write(writer: Writer, rank: int, world_size: int, show: bool) -> None:
    """Write what is missing, again if the store changes meanwhile."""
    folder, layout = writer.folder, writer.layout
    with _told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        writer.locks.mkdir(exist_ok=True)
        with writer.lock(SPEC):
            if not (folder / SPEC).exists():
                write_json(folder / SPEC, layout.spec.to_json())
        while True:
            plan = writer.plan()
            writer.fill(plan, rank, world_size, show)
            if publish(writer, plan):
                break  # else another build published other items meanwhile: plan again


def _addition(writer: Writer) -> Addition:
    with _told(writer.folder):
        return writer.addition()


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """What the system refuses to do with a store is told as ours."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS and str(folder) not in str(error.filename):
            raise  # of `produce`, for example a picture that is missing
        raise CacheError(
            f"The feature store {folder} could not be written ({error}). Free some disk space or "
            "mend the folder's permissions, then start again: what is written is kept."
        ) from error
