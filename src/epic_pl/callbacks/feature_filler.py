"""Fills the feature stores of a run: which items, how they are known, and what encodes them."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from epic_pl.cache import FeatureStore, Field, StoredDtype, StoreSpec, build
from epic_pl.callbacks.stored_features import StoredFeatures
from epic_pl.data import ImageTextDataModule
from epic_pl.data.features import FeatureDataset, PictureDigests, pictures, text_digest
from epic_pl.data.transforms import build_image_transform
from epic_pl.module import EPICModule
from epic_pl.nn.towers import FeatureLevel, Tower

# which axis of a field counts tokens, the batch's left out
_TOKEN_AXES = {"memory": 3, "tokens": 0}


@dataclass(frozen=True)
class CacheOptions:
    """Options of :class:`~epic_pl.callbacks.feature_cache.FeatureCache`, the cache being on."""

    level: FeatureLevel
    dtype: StoredDtype
    root: Path
    views: int
    batch_size: int
    threads: int


class Filler:
    """Fills the two stores split by split."""

    def __init__(
        self,
        options: CacheOptions,
        module: EPICModule,
        data: ImageTextDataModule,
        rank: int,
        world_size: int,
        barrier: Callable[[], None] | None,
    ) -> None:
        self.options, self.module, self.data = options, module, data
        self._build_options: dict[str, Any] = {
            "batch_size": options.batch_size,
            "rank": rank,
            "world_size": world_size,
            "barrier": barrier,
            "pin_memory": module.device.type == "cuda",
        }
        self._digests = PictureDigests(options.root / f"digests-{rank}.json")
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
        threads = 1 if source.transform_is_random else self.options.threads

        def produce(positions: Sequence[int]) -> tuple[dict[str, Tensor], None]:
            with ThreadPoolExecutor(threads) as pool:
                keys = [wanted[position] for position in positions] if wanted else []
                loaded = list(pool.map(lambda key: source.picture(*key), keys))
            loaded = loaded or [torch.zeros(3, size, size)]
            pixels = torch.stack(loaded).to(self.module.device)
            return self._features(tower, pixels, None), None

        identity = {
            "preprocessing": self.data.image_preprocessing.to_dict(),
            "augment": self.data.augment if self.options.views else "none",
            "seed": self.data.seed if self.options.views else 0,
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
            self.options.views,
        )

    def _features(
        self, tower: Tower[Any], inputs: Tensor, mask: Tensor | None
    ) -> dict[str, Tensor]:
        level = self.options.level
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
            dtype=self.options.dtype,
            ragged=ragged,
        )
        self._stores[kind] = build(self.options.root, spec, hashes, produce, **self._build_options)

    def _tower_identity(self, kind: str, tower: Tower[Any]) -> dict[str, Any]:
        boundary = self.options.level == "boundary"
        return {
            "encoder": getattr(self.data, f"{kind}_encoder"),
            "fingerprint": tower.encoder.fingerprint,
            "pooling": tower.encoder.pooling,
            "level": self.options.level,
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
