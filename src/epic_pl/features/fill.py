"""Fills the feature stores of a run."""

from collections.abc import Callable, Collection, Iterable

import torch

from epic_pl.data import ImageTextDataModule
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.features.dataset import StoredItems
from epic_pl.features.digests import ImageDigests
from epic_pl.features.items import CacheOptions, FeatureTower, Images, Texts
from epic_pl.features.store.build import SHARD_BYTES, build


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
) -> tuple[StoredItems, StoredItems]:
    """Store what some splits need and the stores lack; the stored images and texts.

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
    splits = list(splits)
    digests = ImageDigests(options.root / f"digests-{rank}.json")
    images = Images(options, towers[0], device, data, splits=splits, digests=digests)
    names = (text for split in splits for text in split.distinct()[1])
    texts = Texts(names, options, towers[1], device, data)
    wanted = [images.wanted(), texts.wanted()]
    stores = build(
        options.root,
        wanted,
        batch_size=options.batch_size,
        shard_bytes=SHARD_BYTES,
        rank=rank,
        world_size=world_size,
        barrier=barrier,
    )
    return (
        StoredItems(stores[0], images.keys, wanted[0].hashes, in_place),
        StoredItems(stores[1], texts.keys, wanted[1].hashes, in_place),
    )
