"""Filling a store: by any number of processes, killed and continued at will, to the same bytes."""

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from filelock import Timeout

from epic_pl.cache.layout import Layout
from epic_pl.cache.manifest import SPEC, FileEntry, Manifest, size_of, write_index, write_json
from epic_pl.cache.packer import Pack, Packer, Produce
from epic_pl.cache.plan import Plan, make_plan
from epic_pl.cache.shard import ShardHeader, ShardTail
from epic_pl.cache.spec import StoreSpec
from epic_pl.cache.store import FeatureStore
from epic_pl.cache.writer import Writer
from epic_pl.errors import CacheError

SHARD_BYTES = 256_000_000
_COPIED = 16  # packed items that are copied at a time
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


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
        barrier: called by each process once the store is complete.
        pin_memory: of the store that is opened.

    Raises:
        CacheError: too little disk is free, the existing store is damaged, or what ``produce``
            gives does not fit the spec or is not finite.
    """
    if not hashes:
        raise CacheError("There is nothing to store: no item was given.")
    layout, folder = Layout.of(spec), spec.folder(root)
    if folder.is_dir() and not os.access(folder, os.W_OK):
        return _open_read_only(root, spec, hashes, barrier, pin_memory)
    writer = Writer(folder, layout, Packer(layout, hashes, produce), batch_size)
    _write(writer, hashes, shard_bytes, rank, world_size, progress and rank == 0)
    if barrier is not None:
        barrier()
    return FeatureStore.open(root, spec, pin_memory)


def append(
    root: Path,
    spec: StoreSpec,
    hashes: Sequence[str],
    pack: Pack,
    shard_bytes: int = SHARD_BYTES,
    pin_memory: bool = False,
) -> FeatureStore:
    """Add items that are packed already to a store, and open it.

    Args:
        root: the folder of all stores.
        spec: what the store holds.
        hashes: of the items; what the store has by now is left out.
        pack: takes positions in ``hashes`` and gives their records.
        shard_bytes: largest size of a file.
        pin_memory: of the store that is opened.

    Raises:
        CacheError: the store cannot be written, or is damaged.
    """
    folder = spec.folder(root)
    if folder.is_dir() and not os.access(folder, os.W_OK):
        raise CacheError(
            f"The feature store {folder} cannot be written, but lacks items. Mend its permissions, "
            "or choose another cache folder."
        )
    writer = Writer(folder, Layout.of(spec), pack, _COPIED)
    _write(writer, hashes, shard_bytes, 0, 1, False)
    return FeatureStore.open(root, spec, pin_memory)


def _write(
    writer: Writer,
    hashes: Sequence[str],
    shard_bytes: int,
    rank: int,
    world_size: int,
    show: bool,
) -> None:
    """Write what is missing, again if the store changes meanwhile."""
    folder, layout = writer.folder, writer.layout
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writer.locks.mkdir(exist_ok=True)
        with writer.lock(SPEC):
            if not (folder / SPEC).exists():
                write_json(folder / SPEC, layout.spec.to_json())
        while True:
            plan = make_plan(folder, layout, hashes, shard_bytes)
            writer.fill(plan, rank, world_size, show)
            if _publish(writer, plan):
                break  # else another build published other items meanwhile: plan again
    except OSError as error:
        if error.errno not in _DISK_ERRORS and str(folder) not in str(error.filename):
            raise  # of `produce`, for example a picture that is missing
        raise CacheError(
            f"The feature store {folder} could not be written ({error}). Free some disk space or "
            "mend the folder's permissions, then start again: what is written is kept."
        ) from error


def _open_read_only(
    root: Path,
    spec: StoreSpec,
    hashes: Sequence[str],
    barrier: Callable[[], None] | None,
    pin_memory: bool,
) -> FeatureStore:
    """Open a store that somebody else keeps, if it has everything."""
    store = FeatureStore.open(root, spec, pin_memory)
    if absent := int((store.rows(hashes) < 0).sum()):
        raise CacheError(
            f"The feature store {store.folder} lacks {absent:,} of {len(hashes):,} items and "
            "cannot be written. Mend its permissions, or choose another cache folder."
        )
    if barrier is not None:
        barrier()
    return store


def _publish(writer: Writer, plan: Plan) -> bool:
    """Write index and manifest; False if the store changed since it was planned."""
    folder, layout = writer.folder, writer.layout
    with writer.lock("manifest"):
        now = Manifest.read(folder)
        tails = [ShardTail.read(folder / shard.name, layout) for shard in plan.shards]
        shards = tuple(
            FileEntry(shard.name, size_of(folder / shard.name), tail.sha256, len(tail.digests))
            for shard, tail in zip(plan.shards, tails, strict=True)
        )
        if now is not None and now.shards == shards and not now.broken(folder):
            # nothing was missing, or another process was first; it may have been killed since
            _remove_leftovers(writer, now, plan)
            return True
        if now != plan.base:
            return False
        lengths = [tail.lengths for tail in tails if tail.lengths is not None]
        index = write_index(
            folder, len(shards), plan.digests, lengths if layout.spec.ragged else None
        )
        manifest = Manifest(layout.spec, shards, index)
        manifest.write(folder)
        _remove_leftovers(writer, manifest, plan)
    return True


def _remove_leftovers(writer: Writer, manifest: Manifest, plan: Plan) -> None:
    """Remove old indexes, files of killed processes, and shards whose items are all stored now."""
    used = {manifest.index.name, *(shard.name for shard in manifest.shards)}
    for path in writer.folder.glob(".*.partial"):
        try:
            with writer.lock(path.name[1:].removesuffix(".partial"), timeout=0):
                path.unlink(missing_ok=True)
        except Timeout:  # of a process that still lives
            continue
    for path in writer.folder.glob("*.bin"):
        if path.name not in used and not _has_others(path, writer.layout, plan):
            path.unlink(missing_ok=True)


def _has_others(path: Path, layout: Layout, plan: Plan) -> bool:
    """Tell whether a file is a whole shard with items that the store does not have yet."""
    header = ShardHeader.read(path)
    if header is None or header.nbytes(layout) != size_of(path):
        return False
    return not np.isin(ShardTail.read(path, layout).digests, plan.digests).all()
