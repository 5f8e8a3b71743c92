"""Which shards a store will have, decided by the order of its items alone.

A shard's name holds its number and a digest of its items. So processes need not talk to each
other: whoever plans the same items writes the same files, and a file that is there and whole is
done, whoever wrote it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from epic_pl.features.layout import Layout
from epic_pl.features.store.manifest import Index, Manifest, size_of
from epic_pl.features.store.shard import Digests, digests_of, is_whole

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PlannedShard:
    """A shard that the store will have.

    Attributes:
        name: of the file.
        digests: of its items.
        positions: of its items among those that `build` was given.
    """

    name: str
    digests: Digests
    positions: Positions

    def is_whole(self, folder: Path, layout: Layout) -> bool:
        """Tell whether it is already written."""
        return is_whole(folder / self.name, layout, self.digests)


@dataclass(frozen=True)
class Plan:
    """All shards, those of an earlier manifest first.

    Attributes:
        base: the manifest that the store had.
        shards: in the order of rows.
        hashes: that `build` was given.
    """

    base: Manifest | None
    shards: tuple[PlannedShard, ...]
    hashes: Sequence[str]

    @property
    def digests(self) -> Digests:
        """Of all items, in the order of rows."""
        return np.concatenate([shard.digests for shard in self.shards])

    def missing(self, folder: Path, layout: Layout) -> list[PlannedShard]:
        """Shards that are still to be written."""
        return [shard for shard in self.shards if not shard.is_whole(folder, layout)]


def make_plan(folder: Path, layout: Layout, hashes: Sequence[str], shard_bytes: int) -> Plan:
    """Keep what the manifest has, and share the other items out over new shards, in their order.

    A shard of the manifest that is missing or truncated is planned again if all of its items are
    among `hashes`; if not, it is given up.
    """
    digests = digests_of(hashes)
    while True:
        base = Manifest.read(folder)
        try:
            kept = _kept(folder, layout, base, digests) if base is not None else []
            break
        except FileNotFoundError:  # another process has published since
            continue
    first = np.sort(np.unique(digests, return_index=True)[1])  # each item once, as first given
    known = np.concatenate([digests[:0], *(shard.digests for shard in kept)])
    new = first[~np.isin(digests[first], known)]
    size = max(1, shard_bytes // max(1, layout.bytes_per_item()))
    number = 1 + max((int(shard.name.split("-")[1]) for shard in kept), default=-1)
    added = [
        _planned(number + step, digests[new[start : start + size]], new[start : start + size])
        for step, start in enumerate(range(0, len(new), size))
    ]
    return Plan(base, (*kept, *added), hashes)


def _planned(number: int, digests: Digests, positions: Positions) -> PlannedShard:
    items = hashlib.blake2b(digests.tobytes(), digest_size=6).hexdigest()
    return PlannedShard(f"shard-{number:05d}-{items}.bin", digests, positions)


def _kept(folder: Path, layout: Layout, base: Manifest, digests: Digests) -> list[PlannedShard]:
    if size_of(folder / base.index.name) != base.index.nbytes:
        return []  # every shard that was written from the same items will be found by its name
    index = Index(folder / base.index.name, base.index.items, layout.spec.ragged)
    order = np.argsort(digests, kind="stable")
    kept: list[PlannedShard] = []
    start = 0
    for entry in base.shards:
        own = index.digests[start : start + entry.items]
        start += entry.items
        at = order[np.minimum(np.searchsorted(digests, own, sorter=order), len(digests) - 1)]
        shard = PlannedShard(entry.name, own, at)
        if np.array_equal(digests[at], own) or shard.is_whole(folder, layout):
            kept.append(shard)
    return kept
