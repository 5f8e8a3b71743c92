"""Where cached loaders read while the stores are still being filled.

Shape legend: B batch, N tokens.
"""

from collections.abc import Sequence
from threading import Lock
from typing import Any

from torch import Tensor

from epic_pl.data import ImageTextDataModule
from epic_pl.errors import ConfigError
from epic_pl.features import SHARD_BYTES, GrowingStore
from epic_pl.features.dataset import FeatureDataset, PictureKey, pictures
from epic_pl.features.growing_estimate import FirstEpoch
from epic_pl.features.items import CacheOptions, Encoded, Items, in_place
from epic_pl.features.modalities import Pictures, Texts
from epic_pl.features.stored import masked
from epic_pl.module import EPICModule
from epic_pl.types import Features


class GrowingFeatures:
    """Two stores, asked by pictures and texts, that encode what they lack.

    A row of this source is the picture or text itself, None where it is absent.

    Args:
        options: of the cache.
        module: whose encoders are run, on the device that it is on.
        data: whose preprocessing and tokenizer are used.
        shard_bytes: of features that are kept in memory at most, for each of the two stores.

    Raises:
        ConfigError: if the method has nothing of the cache's level.
        CacheError: if a store on the disk is damaged.
    """

    def __init__(
        self,
        options: CacheOptions,
        module: EPICModule,
        data: ImageTextDataModule,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self.views = options.views
        self._pictures = Pictures(options, module, data, options.root / "digests-0.json")
        self._texts = Texts(options, module, data)
        pin_memory = module.device.type == "cuda"
        self._stores = {
            items.kind: GrowingStore(
                options.root, items.spec, options.batch_size, shard_bytes, pin_memory
            )
            for items in (self._pictures, self._texts)
        }
        self._first_epoch = FirstEpoch(
            self._pictures, self._texts, self._stores["image"], self._stores["text"]
        )
        self._in_place = in_place(module)
        self._hashes: dict[PictureKey | str, str] = {}
        self._hashing = Lock()  # what a loader's thread hashes, the main one writes

    def add(self, dataset: FeatureDataset, views: int) -> None:
        """Let a split be read: ``views`` augmented ones of each picture, or as evaluation sees."""
        self._pictures.register(pictures(dataset), views)
        self._first_epoch.add(dataset, views)

    def require_disk(self) -> None:
        """Print what the splits are going to add at most, and compare it with the free disk.

        Raises:
            CacheError: too little is free.
        """
        self._first_epoch.require_disk()

    def image_rows(self, keys: Sequence[PictureKey | None]) -> list[PictureKey | None]:
        """(B,) the pictures themselves."""
        return list(keys)

    def text_rows(self, texts: Sequence[str | None]) -> list[str | None]:
        """(B,) the texts themselves."""
        return list(texts)

    def gather_images(self, rows: list[PictureKey | None]) -> Features:
        """Fields of pictures, batch first."""
        return self._gather(self._pictures, rows)

    def gather_texts(self, rows: list[str | None]) -> tuple[Features, Tensor]:
        """Fields of texts, batch first, and their mask ``(B, N)``."""
        return masked(self._gather(self._texts, rows), len(rows))

    def flush(self) -> None:
        """Write what is only in memory.

        Raises:
            CacheError: if it cannot be written.
        """
        for store in self._stores.values():
            store.flush()
        with self._hashing:
            self._pictures.remember()

    def _gather(self, items: Items[Any], keys: Sequence[Any]) -> Features:
        def produce(positions: Sequence[int]) -> Encoded:
            _check_precision(items)
            return items.encode([keys[position] for position in positions])

        with self._hashing:
            known = self._hashes
            new = [key for key in dict.fromkeys(keys) if key is not None and key not in known]
            known |= dict(zip(new, items.hashes(new), strict=True))
            hashes = [None if key is None else known[key] for key in keys]
        return self._stores[items.kind].gather(hashes, produce, self._in_place)


def _check_precision(items: Items[Any]) -> None:
    known = items.spec.identity["precision"]
    if items.precision != known:
        raise ConfigError(
            f"trainer.precision runs the {items.kind} encoder in {items.precision} once training "
            f"has started, but its features are stored in {known} arithmetic. Set cache.fill to "
            "ahead, which encodes before the start, or another trainer.precision."
        )
