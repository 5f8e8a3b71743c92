"""Writing the shards of a plan, in company of other processes."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from rich.filesize import decimal

from epic_pl.cache.layout import Layout
from epic_pl.cache.packer import Pack
from epic_pl.cache.plan import Plan, PlannedShard
from epic_pl.cache.progress import Progress
from epic_pl.cache.shard import Packed, write_shard
from epic_pl.errors import CacheError

_POLL = 0.2  # seconds between looks at shards that another process writes
_SLACK = 64_000_000  # bytes of disk that stay free


class Writer:
    """Writes shards of one store."""

    def __init__(self, folder: Path, layout: Layout, pack: Pack, batch_size: int) -> None:
        self.folder, self.layout = folder, layout
        self.locks = folder.with_name(f".{folder.name}.locks")
        self._pack, self._batch_size = pack, batch_size

    def lock(self, name: str, timeout: float = -1) -> FileLock:
        """A lock that the system lifts when its process dies; beside the store, not in it."""
        return FileLock(self.locks / f"{name}.lock", timeout)

    def fill(self, plan: Plan, rank: int, world_size: int, show: bool) -> None:
        """Write shards, own ones first, until none is missing."""
        missing = plan.missing(self.folder, self.layout)
        if not missing:
            return
        own = missing[rank::world_size]
        todo = own + [shard for shard in missing if shard not in own]
        size = self._expected_size(missing)
        items = sum(len(shard.positions) for shard in missing)
        self._check_disk(items, size, show)
        share = sum(len(shard.positions) for shard in own)
        with Progress(f"{self.layout.spec.kind} features", share * size, show) as bar:
            while todo:
                left = [shard for shard in todo if not self._try_to_write(shard, bar, size)]
                if len(left) == len(todo):
                    time.sleep(_POLL)
                todo = left

    def _try_to_write(self, shard: PlannedShard, bar: Progress, size: float) -> bool:
        """Write a shard unless it is there (True) or another process is at it (False)."""
        if shard.is_whole(self.folder, self.layout):
            return True
        try:
            with self.lock(shard.name, timeout=0):
                if not shard.is_whole(self.folder, self.layout):
                    path = self.folder / shard.name
                    batches = self._batches(shard, bar, size)
                    write_shard(path, self.layout, shard.digests, batches)
            return True
        except Timeout:
            return False

    def _batches(self, shard: PlannedShard, bar: Progress, size: float) -> Iterator[Packed]:
        for start in range(0, len(shard.positions), self._batch_size):
            positions = shard.positions[start : start + self._batch_size].tolist()
            yield self._pack(positions)
            bar.advance(len(positions) * size)

    def _expected_size(self, missing: list[PlannedShard]) -> float:
        """Bytes of an item; for ragged ones from a batch of them, spread over all."""
        if not self.layout.spec.ragged:
            return self.layout.bytes_per_item()
        positions = np.concatenate([shard.positions for shard in missing])
        sample = positions[:: max(1, -(-len(positions) // self._batch_size))].tolist()
        lengths = self._pack(sample)[2]
        assert lengths is not None
        return self.layout.bytes_per_item(float(lengths.mean()))

    def _check_disk(self, items: int, size: float, show: bool) -> None:
        needed = int(items * size)
        free = shutil.disk_usage(self.folder).free
        spec = self.layout.spec
        if needed + _SLACK > free:
            raise CacheError(
                f"The {spec.kind} feature store needs {decimal(needed)} for {items:,} items, but "
                f"{self.folder.parent} has {decimal(free)} free. Store smaller numbers (dtype "
                f"float16 or int8; now {spec.dtype}) or another level, choose another cache folder "
                "(or set EPIC_PL_CACHE to one), or remove old stores with `epic-pl cache clear`."
            )
        if show:
            print(
                f"Caching {spec.kind} features of {items:,} items, about {decimal(needed)} "
                f"({decimal(int(size))} each, {spec.dtype}), in {self.folder}; "
                f"{decimal(free)} free",
                flush=True,
            )
