"""Writing the shards of a plan, in company of other processes."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from epic_pl.features.estimate import Addition, spread
from epic_pl.features.layout import Layout
from epic_pl.features.plan import Plan, PlannedShard, make_plan
from epic_pl.features.progress import Progress
from epic_pl.features.store.packer import Pack
from epic_pl.features.store.shard import Packed, write_shard

_POLL = 0.2  # seconds between looks at shards that another process writes


class Writer:
    """Writes shards of one store.

    Args:
        folder: the store's.
        layout: of the store.
        hashes: of the items that it must have.
        pack: takes positions in ``hashes`` and gives their records.
        batch_size: items that are packed at a time.
        shard_bytes: largest size of a file.
    """

    def __init__(
        self,
        folder: Path,
        layout: Layout,
        hashes: Sequence[str],
        pack: Pack,
        batch_size: int,
        shard_bytes: int,
    ) -> None:
        self.folder, self.layout, self.hashes = folder, layout, hashes
        self.locks = folder.with_name(f".{folder.name}.locks")
        self._pack, self._batch_size, self._shard_bytes = pack, batch_size, shard_bytes
        self._bytes_per_item: float | None = None

    def lock(self, name: str, timeout: float = -1) -> FileLock:
        """A lock that the system lifts when its process dies; beside the store, not in it."""
        return FileLock(self.locks / f"{name}.lock", timeout)

    def plan(self) -> Plan:
        """The shards that the store will have, as it is now."""
        return make_plan(self.folder, self.layout, self.hashes, self._shard_bytes)

    def addition(self) -> Addition:
        """What the store is going to get, as it is now."""
        missing = self.plan().missing(self.folder, self.layout)
        items = sum(len(shard.positions) for shard in missing)
        return Addition(self.layout.spec, items, self._size(missing) if missing else 0.0)

    def fill(self, plan: Plan, rank: int, world_size: int, show: bool) -> None:
        """Write shards, own ones first, until none is missing."""
        missing = plan.missing(self.folder, self.layout)
        if not missing:
            return
        own = missing[rank::world_size]
        todo = own + [shard for shard in missing if shard not in own]
        size = self._size(missing)
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

    def _size(self, missing: list[PlannedShard]) -> float:
        """Bytes of an item; for ragged ones from a batch of them, spread over all."""
        if self._bytes_per_item is None:
            self._bytes_per_item = self._expected_size(missing)
        return self._bytes_per_item

    def _expected_size(self, missing: list[PlannedShard]) -> float:
        if not self.layout.spec.ragged:
            return self.layout.bytes_per_item()
        positions = np.concatenate([shard.positions for shard in missing])
        lengths = self._pack(spread(positions.tolist(), self._batch_size))[2]
        assert lengths is not None
        return self.layout.bytes_per_item(float(lengths.mean()))
