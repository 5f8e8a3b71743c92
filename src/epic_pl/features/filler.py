"""Fills the feature stores of a run ahead of it."""

from collections.abc import Callable, Sequence
from typing import Any

from epic_pl.data import ImageTextDataModule
from epic_pl.features import SHARD_BYTES, FeatureStore, Wanted, build_all
from epic_pl.features.dataset import FeatureDataset, pictures
from epic_pl.features.items import CacheOptions, Encoded, Items, in_place
from epic_pl.features.modalities import Pictures, Texts
from epic_pl.features.stored import StoredFeatures
from epic_pl.module import EPICModule


class Filler:
    """Fills the two stores with all that some splits need.

    Args:
        options: of the cache.
        module: whose encoders are run, on the device that it is on.
        data: whose preprocessing and tokenizer are used.
        rank: of this process.
        world_size: number of processes.
        barrier: called by each process before anything is written, and once all is there.
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
        self._hashes: dict[str, dict[Any, str]] = {}
        # items of all splits, each once, in their order
        self._keys: dict[str, dict[Any, None]] = {"image": {}, "text": {}}

    def add(self, dataset: FeatureDataset, views: int) -> None:
        """Want a split: ``views`` augmented ones of each picture, or as evaluation sees it."""
        self._keys["image"] |= dict.fromkeys(self.pictures.add(pictures(dataset), views))
        self._keys["text"] |= dict.fromkeys(dataset.distinct()[1])

    def fill(self) -> StoredFeatures:
        """Store what is wanted and not there yet.

        Raises:
            ConfigError: if the method has nothing of the cache's level.
            DataError: if a picture cannot be read.
            CacheError: if the stores cannot be written, or the disk has no room for all of them.
        """
        wanted = [self._wanted(items) for items in (self.pictures, self.texts)]
        images, texts = build_all(self.options.root, wanted, **self._build_options)
        return StoredFeatures(
            images,
            texts,
            self._rows(images),
            self._rows(texts),
            self.options.views,
            in_place(self._module),
        )

    def _wanted(self, items: Items[Any]) -> Wanted:
        keys = list(self._keys[items.kind]) or [
            items.blank
        ]  # a store knows its shapes from an item
        hashes = items.hashes(keys)
        items.remember()
        self._hashes[items.kind] = dict(zip(keys, hashes, strict=True))

        def produce(positions: Sequence[int]) -> Encoded:
            return items.encode([keys[position] for position in positions])

        return Wanted(items.spec, hashes, produce, items.free)

    def _rows(self, store: FeatureStore) -> dict[Any, int]:
        hashes = self._hashes[store.spec.kind]
        return dict(zip(hashes, store.rows(list(hashes.values())).tolist(), strict=True))
