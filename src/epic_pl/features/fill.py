"""Fills the feature stores of a run."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from epic_pl.data import ImageTextDataModule
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.features.dataset import StoredFeatures, StoredItems
from epic_pl.features.digests import ImageDigests
from epic_pl.features.items import CacheOptions, FeatureTower, Images, Items, Texts, serves
from epic_pl.features.store.build import SHARD_BYTES, Wanted, build
from epic_pl.features.store.reader import FeatureStore


def fill_stores(
    options: CacheOptions,
    towers: tuple[FeatureTower, FeatureTower],
    device: torch.device,
    data: ImageTextDataModule,
    splits: Iterable[ImageTextDataset],
    *,
    in_place: Collection[str] = (),
    rank: int = 0,
    world_size: int = 1,
    barrier: Callable[[], None] = lambda: None,
) -> StoredFeatures:
    """Store what some splits need and the stores lack.

    Args:
        options: of the cache.
        towers: of images and texts, whose encoders are run.
        device: on which they are.
        data: whose preprocessing and tokenizer are used.
        splits: datasets, of which no image is augmented.
        in_place: fields that the model can read where they are stored.
        rank: of this process.
        world_size: number of processes.
        barrier: called by each process before anything is written, and once all is there.

    Raises:
        ConfigError: the method cannot be trained from features of this level.
        DataError: an image cannot be read.
        CacheError: a store cannot be written, or the disk has no room for both.
    """
    digests = ImageDigests(options.root / f"digests-{rank}.json")
    images = Images(options, towers[0], device, data, digests=digests)
    texts = Texts(options, towers[1], device, data)
    image_keys: dict[Any, str] = {}
    text_keys: dict[Any, str] = {}
    for dataset in splits:
        image_keys |= dict.fromkeys(images.add(dataset), "")
        text_keys |= dict.fromkeys(dataset.distinct()[1], "")
    wanted = [_wanted(images, image_keys), _wanted(texts, text_keys)]
    stores = build(
        options.root,
        wanted,
        batch_size=options.batch_size,
        shard_bytes=SHARD_BYTES,
        rank=rank,
        world_size=world_size,
        barrier=barrier,
    )
    image_items = _stored(stores[0], image_keys, in_place)
    text_items = _stored(stores[1], text_keys, in_place)
    return StoredFeatures(image_items, text_items)


def _wanted(items: Items[Any], hashes: dict[Any, str]) -> Wanted:
    """What the store of a modality must have; notes the hashes of its items."""
    keys = list(hashes) or [items.blank]  # splits may lack the modality
    hashes |= dict(zip(keys, items.hashes(keys), strict=True))

    def produce(positions: Sequence[int]) -> tuple[dict[str, Tensor], Tensor | None]:
        return items.encode([keys[position] for position in positions])

    return Wanted(
        items.spec,
        list(hashes.values()),
        produce,
        lambda spec: serves(spec, items.spec),
        items.mean_tokens(keys),
    )


def _stored(store: FeatureStore, hashes: dict[Any, str], in_place: Collection[str]) -> StoredItems:
    rows = store.rows(list(hashes.values())).tolist()
    return StoredItems(store, dict(zip(hashes, rows, strict=True)), in_place)
