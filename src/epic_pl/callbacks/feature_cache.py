"""Store what the frozen encoders give, once for each picture and text, and train from that.

Shape legend: B batch, N tokens.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from epic_pl.cache import FeatureStore, Field, StoredDtype, StoreSpec, build, default_root
from epic_pl.data import ImageTextDataModule
from epic_pl.data.features import (
    FeatureDataset,
    PictureDigests,
    by_name,
    pictures,
    text_digest,
)
from epic_pl.data.transforms import build_image_transform
from epic_pl.errors import ConfigError
from epic_pl.module import EPICModule
from epic_pl.nn.towers import FeatureLevel, Tower

# which axis of a field counts tokens, the batch's left out
_TOKEN_AXES = {"memory": 3, "tokens": 0}
_SPLITS: dict[str, tuple[Literal["train", "val", "test", "predict"], ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}


class FeatureCache(Callback):
    """Fills feature stores before a run, and has the DataModule's loaders read from them.

    What is already stored is used again, by any run whose encoders, layers and preprocessing are
    the same; nothing else ever matches. Ranks share the work.

    Args:
        level: "off"; "boundary": tokens that enter the first interaction layer, for any prompts;
            "layers": keys and values of every interaction layer, for prompts that only read.
        dtype: of the stored numbers: float32, bfloat16, float16 or int8.
        folder: of the stores; None is ``features`` in the cache folder.
        views: augmented views of each training picture; 0 stores it as evaluation sees it.
        batch_size: pictures or texts that are encoded at a time.
        threads: that decode pictures while the stores are filled.

    Raises:
        ConfigError: if the cache does not go with the other options.
    """

    def __init__(
        self,
        level: Literal["off", "boundary", "layers"] = "off",
        dtype: StoredDtype = "float16",
        folder: str | None = None,
        views: int = 0,
        batch_size: int = 32,
        threads: int = 2,
    ) -> None:
        if views < 0:
            raise ConfigError(f"cache.views is {views}: it counts stored views, from 0.")
        self.level = level
        self.dtype = dtype
        self.root = default_root() if folder is None else Path(folder)
        self.views = views
        self.batch_size = batch_size
        self.threads = threads

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Fill the stores of this stage's splits and hand them to the DataModule."""
        if self.level == "off":
            return
        data: Any = getattr(trainer, "datamodule", None)
        if not isinstance(data, ImageTextDataModule) or not isinstance(pl_module, EPICModule):
            raise ConfigError(
                "The feature cache reads rows by name, which it can ask of an ImageTextDataModule "
                "with EPICModule only: set cache.level to off for loaders of your own."
            )
        # the module is on its device only after this hook; the stores are filled there too
        pl_module.to(trainer.strategy.root_device)
        self.fill(
            pl_module,
            data,
            stage,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            barrier=lambda: trainer.strategy.barrier("feature cache"),
        )

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let the DataModule read pictures again: another run may ask for other splits."""
        data: Any = getattr(trainer, "datamodule", None)
        if self.level != "off" and isinstance(data, ImageTextDataModule):
            data.use_features(None)

    def fill_all(self, module: EPICModule, data: ImageTextDataModule) -> None:
        """Store what every stage of ``data`` needs, ahead of any run.

        Raises:
            ConfigError: if the cache is off.
        """
        if self.level == "off":
            raise ConfigError(
                "There is nothing to store while cache.level is off: set it to boundary or layers, "
                "in the config or by --cache.level."
            )
        data.prepare_data()
        for stage in _SPLITS:
            data.setup(stage)
            self.fill(module, data, stage)

    def fill(
        self,
        module: EPICModule,
        data: ImageTextDataModule,
        stage: str,
        rank: int = 0,
        world_size: int = 1,
        barrier: Callable[[], None] | None = None,
    ) -> None:
        """Store what a stage of ``data``, already set up, needs; its loaders then read it.

        Raises:
            ConfigError: if live augmentation is asked for, or a dataset does not tell its rows.
            CacheError: if the stores cannot be written.
        """
        assert self.level != "off"
        if data.augment != "none" and self.views == 0:
            raise ConfigError(
                f"data.augment is {data.augment!r}, but stored features cannot be augmented any "
                "more. Set cache.views to the number of augmented views to store of each training "
                "picture, or data.augment to none, or cache.level to off."
            )
        filler = _Filler(self, module, data, rank, world_size, barrier)
        for split in _SPLITS[stage]:
            dataset = by_name(data.dataset(split))
            filler.add_pictures(dataset, self.views if split == "train" else 0)
            filler.add_texts(dataset)
        data.use_features(filler.stores())


class StoredFeatures:
    """Two stores, asked by picture path and view, and by text."""

    def __init__(
        self,
        images: FeatureStore,
        texts: FeatureStore,
        image_rows: dict[tuple[str, int], int],
        text_rows: dict[str, int],
        views: int,
    ) -> None:
        self.images, self.texts, self.views = images, texts, views
        self._image_rows, self._text_rows = image_rows, text_rows

    def image_rows(
        self, paths: Sequence[str | None], views: Sequence[int]
    ) -> npt.NDArray[np.int64]:
        """(B,) rows, -1 for a picture that is absent."""
        keys = zip(paths, views, strict=True)
        return np.array([-1 if p is None else self._image_rows[p, v] for p, v in keys], np.int64)

    def text_rows(self, texts: Sequence[str | None]) -> npt.NDArray[np.int64]:
        """(B,) rows, -1 for a text that is absent."""
        return np.array([-1 if text is None else self._text_rows[text] for text in texts], np.int64)

    def gather_images(self, rows: npt.NDArray[np.int64]) -> dict[str, Tensor]:
        """Fields of pictures, batch first."""
        return self.images.gather(rows, zero_absent=True)

    def gather_texts(self, rows: npt.NDArray[np.int64]) -> tuple[dict[str, Tensor], Tensor]:
        """Fields of texts, batch first, and their mask ``(B, N)``."""
        fields = self.texts.gather(rows, zero_absent=True)
        # a store of pooled outputs has no tokens: one position stands for the text
        mask = fields.pop("mask") if "mask" in fields else torch.ones(len(rows), 1)
        return fields, mask


class _Filler:
    """Fills the two stores split by split."""

    def __init__(
        self,
        cache: FeatureCache,
        module: EPICModule,
        data: ImageTextDataModule,
        rank: int,
        world_size: int,
        barrier: Callable[[], None] | None,
    ) -> None:
        self.cache, self.module, self.data = cache, module, data
        self._build_options: dict[str, Any] = {
            "batch_size": cache.batch_size,
            "rank": rank,
            "world_size": world_size,
            "barrier": barrier,
            "pin_memory": module.device.type == "cuda",
        }
        self._digests = PictureDigests(cache.root / f"digests-{rank}.json")
        self._image_hashes: dict[tuple[str, int], str] = {}
        self._text_hashes: dict[str, str] = {}
        self._stores: dict[str, FeatureStore] = {}

    def add_pictures(self, dataset: FeatureDataset, views: int) -> None:
        """Store a split's pictures: ``views`` augmented ones, or as evaluation sees them."""
        source, paths = pictures(dataset), dataset.distinct()[0]
        size = self.data.image_preprocessing.size
        digests = self._digests(source.image_root, paths)
        wanted = [(path, view) for path in paths for view in (range(views) if views else (-1,))]
        # a store knows its shapes from an item, also where no row has a picture
        hashes = [f"{digests[path]}/{view}" for path, view in wanted] or ["blank"]
        if views == 0:
            source.transform = build_image_transform(self.data.image_preprocessing, train=False)
        tower = self.module.model.image_tower
        # random transforms are seeded through global states, which threads would share
        threads = 1 if source.transform_is_random else self.cache.threads

        def produce(positions: Sequence[int]) -> tuple[dict[str, Tensor], None]:
            with ThreadPoolExecutor(threads) as pool:
                keys = [wanted[position] for position in positions] if wanted else []
                loaded = list(pool.map(lambda key: source.picture(*key), keys))
            loaded = loaded or [torch.zeros(3, size, size)]
            pixels = torch.stack(loaded).to(self.module.device)
            return self._features(tower, pixels, None), None

        identity = {
            "preprocessing": self.data.image_preprocessing.to_dict(),
            "augment": self.data.augment if self.cache.views else "none",
            "seed": self.data.seed if self.cache.views else 0,
        }
        self._fill("image", tower, identity, hashes, produce)
        self._image_hashes |= dict(zip(wanted, hashes, strict=False))

    def add_texts(self, dataset: FeatureDataset) -> None:
        """Store a split's texts."""
        texts = dataset.distinct()[1] or [""]
        hashes = [text_digest(text) for text in texts]
        tower, collator = self.module.model.text_tower, self.data.collator

        def produce(positions: Sequence[int]) -> tuple[dict[str, Tensor], Tensor | None]:
            tokens = collator.tokenize([texts[position] for position in positions])
            mask = tokens["attention_mask"].bool().to(self.module.device)
            ids = tokens["input_ids"].to(self.module.device)
            features = self._features(tower, ids, mask)
            return features, mask.sum(dim=1).cpu() if _ragged(features) else None

        identity = {
            "tokenizer": self.data.text_encoder,
            "revision": self.data.text_encoder_revision,
            "max_tokens": self.data.max_text_tokens,
        }
        self._fill("text", tower, identity, hashes, produce)
        self._text_hashes |= dict(zip(texts, hashes, strict=True))

    def stores(self) -> StoredFeatures:
        """What was filled."""
        images, texts = self._stores["image"], self._stores["text"]
        image_rows = images.rows(list(self._image_hashes.values())).tolist()
        text_rows = texts.rows(list(self._text_hashes.values())).tolist()
        return StoredFeatures(
            images,
            texts,
            dict(zip(self._image_hashes, image_rows, strict=True)),
            dict(zip(self._text_hashes, text_rows, strict=True)),
            self.cache.views,
        )

    def _features(
        self, tower: Tower[Any], inputs: Tensor, mask: Tensor | None
    ) -> dict[str, Tensor]:
        assert self.cache.level != "off"
        level: FeatureLevel = self.cache.level
        with torch.inference_mode(), torch.autocast(inputs.device.type, enabled=False):
            return {k: v.float().cpu() for k, v in tower.features(inputs, mask, level).items()}

    def _fill(
        self,
        kind: Literal["image", "text"],
        tower: Tower[Any],
        identity: dict[str, Any],
        hashes: list[str],
        produce: Callable[[Sequence[int]], Any],
    ) -> None:
        example = produce([0])[0]
        ragged = kind == "text" and _ragged(example)
        max_tokens = self.data.max_text_tokens if ragged else None
        spec = StoreSpec(
            kind=kind,
            identity=identity | self._tower_identity(kind, tower),
            fields=tuple(_field(name, tensor, max_tokens) for name, tensor in example.items()),
            dtype=self.cache.dtype,
            ragged=ragged,
        )
        self._stores[kind] = build(self.cache.root, spec, hashes, produce, **self._build_options)

    def _tower_identity(self, kind: str, tower: Tower[Any]) -> dict[str, Any]:
        boundary = self.cache.level == "boundary"
        return {
            "encoder": getattr(self.data, f"{kind}_encoder"),
            "fingerprint": tower.encoder.fingerprint,
            "pooling": tower.encoder.pooling,
            "level": self.cache.level,
            # later layers leave no trace in what enters the first
            "layers": tower.layers[:1] if boundary else tower.layers,
        }


def _ragged(fields: dict[str, Tensor]) -> bool:
    """Whether any of a text's fields has an axis of tokens."""
    return any(name in _TOKEN_AXES for name in fields)


def _field(name: str, example: Tensor, max_tokens: int | None) -> Field:
    """A field's shape from one item's tensor ``(1, ...)``; texts may be longer than the example."""
    shape, axis = list(example.shape[1:]), _TOKEN_AXES.get(name)
    if axis is not None and max_tokens is not None:
        shape[axis] = max_tokens
    return Field(name, tuple(shape), axis)
