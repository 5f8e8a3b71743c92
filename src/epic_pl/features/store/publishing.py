"""Making what is written the store: index and manifest, in company of other processes."""

from pathlib import Path

import numpy as np
from filelock import Timeout

from epic_pl.features.layout import Layout
from epic_pl.features.plan import Plan
from epic_pl.features.store.manifest import FileEntry, Manifest, size_of, write_index
from epic_pl.features.store.shard import ShardHeader, ShardTail
from epic_pl.features.store.writer import Writer


def publish(writer: Writer, plan: Plan) -> bool:
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
