"""Which shards a store will have, decided by the order of its items alone.

A shard's name holds its number and a digest of its items. So processes need not communicate: those
that plan the same items write the same files, and a complete file is done, whichever process wrote
it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from epic_pl.features.store.manifest import Index, Manifest, size_of
from epic_pl.features.store.records import Layout
from epic_pl.features.store.shard import Digests, digests_of, is_whole

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PlannedShard:
    """A shard that the store will have.

    Attributes:
        name: of the file.
        digests: of its items.
        positions: of its items in the list of hashes that was planned.
    """

    name: str
    digests: Digests
    positions: Positions


@dataclass(frozen=True)
class Plan:
    """All shards in the order of rows, those of an earlier manifest first.

    Attributes:
        base: the manifest that the store had.
        shards: in the order of rows.
        missing: those that are still to be written.
    """

    base: Manifest | None
    shards: tuple[PlannedShard, ...]
    missing: tuple[PlannedShard, ...]

    @property
    def digests(self) -> Digests:
        """Of all items, in the order of rows."""
        return np.concatenate([shard.digests for shard in self.shards])


def make_plan(folder: Path, layout: Layout, hashes: Sequence[str], shard_bytes: int) -> Plan:
    """Keep what the manifest has, and distribute the other items over new shards, in their order.

    A shard of the manifest that is missing or truncated is planned again if all of its items are
    among `hashes`, and dropped if not.
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
    shards = (*kept, *added)
    missing = [s for s in shards if not is_whole(folder / s.name, layout, s.digests)]
    return Plan(base, shards, tuple(missing))


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
        if np.array_equal(digests[at], own) or is_whole(folder / entry.name, layout, own):
            kept.append(PlannedShard(entry.name, own, at))
    return kept
