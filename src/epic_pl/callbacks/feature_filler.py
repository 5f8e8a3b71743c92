"""Fills the feature stores of a run ahead of it."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from epic_pl.cache import SHARD_BYTES, FeatureStore, build
from epic_pl.callbacks.feature_items import CacheOptions, Encoded, Items, in_place
from epic_pl.callbacks.feature_modalities import Pictures, Texts
from epic_pl.callbacks.stored_features import StoredFeatures
from epic_pl.data import ImageTextDataModule
from epic_pl.data.features import FeatureDataset, pictures
from epic_pl.module import EPICModule


class Filler:
    """Fills the two stores split by split.

    Args:
        options: of the cache.
        module: whose encoders are run, on the device that it is on.
        data: whose preprocessing and tokenizer are used.
        rank: of this process.
        world_size: number of processes.
        barrier: called by each process once a store has a split's items.
    """

    def __init__(
        self,
        options: CacheOptions,
        module: EPICModule,
        data: ImageTextDataModule,
        rank: int,
        world_size: int,
        barrier: Callable[[], None] | None,
    ) -> None:
        self.options, self._module = options, module
        self.pictures = Pictures(options, module, data, options.root / f"digests-{rank}.json")
        self.texts = Texts(options, module, data)
        self._build_options: dict[str, Any] = {
            "batch_size": options.batch_size,
            "shard_bytes": SHARD_BYTES,
            "rank": rank,
            "world_size": world_size,
            "barrier": barrier,
            "pin_memory": module.device.type == "cuda",
        }
        self._hashes: dict[str, dict[Any, str]] = {"image": {}, "text": {}}
        self._stores: dict[str, FeatureStore] = {}

    def add(self, dataset: FeatureDataset, views: int) -> None:
        """Store a split: ``views`` augmented ones of each picture, or as evaluation sees it."""
        self._fill(self.pictures, list(self.pictures.add(pictures(dataset), views)))
        self._fill(self.texts, dataset.distinct()[1])

    def _fill(self, items: Items[Any], keys: Sequence[Hashable]) -> None:
        keys = keys or [items.blank]  # a store knows its shapes from an item
        hashes = items.hashes(keys)
        items.remember()

        def produce(positions: Sequence[int]) -> Encoded:
            return items.encode([keys[position] for position in positions])

        root = self.options.root
        self._stores[items.kind] = build(root, items.spec, hashes, produce, **self._build_options)
        self._hashes[items.kind] |= dict(zip(keys, hashes, strict=True))

    def stores(self) -> StoredFeatures:
        """What was filled."""
        images, texts = self._stores["image"], self._stores["text"]
        return StoredFeatures(
            images,
            texts,
            self._rows("image"),
            self._rows("text"),
            self.options.views,
            in_place(self._module),
        )

    def _rows(self, kind: str) -> dict[Any, int]:
        hashes = self._hashes[kind]
        rows = self._stores[kind].rows(list(hashes.values()))
        return dict(zip(hashes, rows.tolist(), strict=True))
