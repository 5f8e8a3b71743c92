"""Frozen features on the disk: each distinct picture and text once, read at the speed of memory.

`build` fills a store, in any number of processes that may be killed and continued; `FeatureStore`
maps it and gathers batches. A store's folder is named by everything that its numbers depend on, so
another encoder, layer or preprocessing never meets it.
"""

from epic_pl.features.builder import SHARD_BYTES, Wanted, build, build_all
from epic_pl.features.commands import default_root
from epic_pl.features.estimate import Addition, require_disk
from epic_pl.features.spec import JSON, Field, Kind, StoredDtype, StoreSpec
from epic_pl.features.store.manifest import find_spec
from epic_pl.features.store.packer import Produce
from epic_pl.features.store.store import FeatureStore

__all__ = [
    "JSON",
    "SHARD_BYTES",
    "Addition",
    "FeatureStore",
    "Field",
    "Kind",
    "Produce",
    "StoreSpec",
    "StoredDtype",
    "Wanted",
    "build",
    "build_all",
    "default_root",
    "find_spec",
    "require_disk",
]
