"""Writing the shards of a plan, index and manifest, while other processes may do the same."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from torch import Tensor

from epic_pl.features.store.manifest import (
    SPEC,
    FileEntry,
    Manifest,
    size_of,
    write_index,
    write_json,
)
from epic_pl.features.store.plan import Plan, PlannedShard, make_plan
from epic_pl.features.store.progress import Addition, progress_bar
from epic_pl.features.store.records import Layout
from epic_pl.features.store.shard import Packed, ShardHeader, is_whole, read_tail, write_shard
from epic_pl.features.store.spec import StoreSpec

_POLL = 0.2  # seconds between looks at shards that another process writes

Advance = Callable[[float], None]
Produce = Callable[[Sequence[int]], tuple[Mapping[str, Tensor], Tensor | None]]


class Writer:
    """Writes one store.

    Args:
        root: the folder of all stores.
        spec: of the store.
        hashes: of the items that it must have.
        produce: see :class:`~epic_pl.features.store.build.Wanted`.
        batch_size: number of items that are produced at a time.
        shard_bytes: largest size of a file.
    """

    def __init__(
        self,
        root: Path,
        spec: StoreSpec,
        hashes: Sequence[str],
        produce: Produce,
        batch_size: int,
        shard_bytes: int,
    ) -> None:
        self.folder, self.layout = spec.folder(root), Layout.of(spec)
        self._locks = self.folder.with_name(f".{self.folder.name}.locks")
        self._hashes, self._produce = hashes, produce
        self._batch_size, self._shard_bytes = batch_size, shard_bytes
        self._bytes_per_item: float | None = None

    def addition(self) -> Addition:
        """What is missing of the store now."""
        plan = self._plan()
        items = sum(len(shard.positions) for shard in plan.missing)
        return Addition(self.layout.spec, items, self._size(plan) if items else 0.0)

    def write(self, rank: int, world_size: int, show: bool) -> None:
        """Write what is missing, again if the store changes meanwhile."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._locks.mkdir(exist_ok=True)
        with self._lock(SPEC):
            if not (self.folder / SPEC).exists():
                write_json(self.folder / SPEC, self.layout.spec.to_json())
        while True:
            plan = self._plan()
            self._write_shards(plan, rank, world_size, show)
            if self._publish(plan):
                break

    def _lock(self, name: str, timeout: float = -1) -> FileLock:
        """A lock that the system releases when its process dies; beside the store, not in it."""
        return FileLock(self._locks / f"{name}.lock", timeout)

    def _plan(self) -> Plan:
        return make_plan(self.folder, self.layout, self._hashes, self._shard_bytes)

    def _write_shards(self, plan: Plan, rank: int, world_size: int, show: bool) -> None:
        """Write shards, own ones first, until none is missing."""
        if not plan.missing:
            return
        own = plan.missing[rank::world_size]
        todo = [*own, *(shard for shard in plan.missing if shard not in own)]
        size = self._size(plan)
        share = sum(len(shard.positions) for shard in own)
        title = f"{self.layout.spec.kind} features"
        with progress_bar(title, share * size, show) as advance:
            while todo:
                left = [shard for shard in todo if not self._try_to_write(shard, advance, size)]
                if len(left) == len(todo):
                    time.sleep(_POLL)
                todo = left

    def _try_to_write(self, shard: PlannedShard, advance: Advance, size: float) -> bool:
        """Write a shard unless it exists; False if another process is writing it."""
        path = self.folder / shard.name
        if is_whole(path, self.layout, shard.digests):
            return True
        try:
            with self._lock(shard.name, timeout=0):
                if not is_whole(path, self.layout, shard.digests):
                    batches = self._batches(shard, advance, size)
                    write_shard(path, self.layout, shard.digests, batches)
            return True
        except Timeout:
            return False

    def _batches(self, shard: PlannedShard, advance: Advance, size: float) -> Iterator[Packed]:
        for start in range(0, len(shard.positions), self._batch_size):
            positions = shard.positions[start : start + self._batch_size].tolist()
            yield self._pack(positions)
            advance(len(positions) * size)

    def _pack(self, positions: Sequence[int]) -> Packed:
        tensors, given = self._produce(positions)
        lengths = None
        if self.layout.spec.ragged:
            assert given is not None
            lengths = given.cpu().numpy().astype(np.int32)
        names = [self._hashes[position] for position in positions]
        return *self.layout.encode(tensors, lengths, names), lengths

    def _size(self, plan: Plan) -> float:
        """Bytes of an item; of ragged ones the mean of a batch that is spread over all."""
        if self._bytes_per_item is None:
            tokens = None
            if self.layout.spec.ragged:
                positions = np.concatenate([shard.positions for shard in plan.missing])
                step = -(-len(positions) // self._batch_size)
                lengths = self._pack(positions[::step].tolist())[2]
                assert lengths is not None
                tokens = float(lengths.mean())
            self._bytes_per_item = self.layout.bytes_per_item(tokens)
        return self._bytes_per_item

    def _publish(self, plan: Plan) -> bool:
        """Write index and manifest; False if the store changed since it was planned."""
        folder, layout = self.folder, self.layout
        with self._lock("manifest"):
            now = Manifest.read(folder)
            tails = [read_tail(folder / shard.name, layout) for shard in plan.shards]
            shards = tuple(
                FileEntry(shard.name, size_of(folder / shard.name), tail.sha256, len(tail.digests))
                for shard, tail in zip(plan.shards, tails, strict=True)
            )
            # equal: nothing was missing, or another process was first, and perhaps killed since
            if now is None or now.shards != shards or now.broken(folder):
                if now != plan.base:
                    return False
                lengths = [tail.lengths for tail in tails if tail.lengths is not None]
                index = write_index(folder, len(shards), plan.digests, lengths)
                now = Manifest(layout.spec, shards, index)
                now.write(folder)
            self._remove_leftovers(now, plan)
        return True

    def _remove_leftovers(self, manifest: Manifest, plan: Plan) -> None:
        """Remove old indexes, files of killed processes, and shards that others supersede."""
        used = {manifest.index.name, *(shard.name for shard in manifest.shards)}
        for path in self.folder.glob(".*.partial"):
            try:
                with self._lock(path.name[1:].removesuffix(".partial"), timeout=0):
                    path.unlink(missing_ok=True)
            except Timeout:  # its process is alive
                continue
        for path in self.folder.glob("*.bin"):
            if path.name not in used and not self._has_new_items(path, plan):
                path.unlink(missing_ok=True)

    def _has_new_items(self, path: Path, plan: Plan) -> bool:
        """Whether a file is a whole shard with items that the store does not have yet."""
        header = ShardHeader.read(path)
        if header is None or header.nbytes(self.layout) != size_of(path):
            return False
        return not np.isin(read_tail(path, self.layout).digests, plan.digests).all()
