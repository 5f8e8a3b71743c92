"""The dataset that reads stored features instead of decoding images."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.processor import Processor
from epic_pl.features.store.reader import FeatureStore
from epic_pl.utils.types import Batch, Features


class ImageKey(NamedTuple):
    """An image, named by the image folder of its split and its path in it."""

    root: str
    path: str


class StoredItems:
    """The stored images or texts of a run.

    Each item has a key, which :meth:`gather` takes, and a hash, which the store knows. The model
    can read the fields ``in_place`` where they are stored.
    """

    def __init__(
        self,
        store: FeatureStore,
        keys: Sequence[Any],
        hashes: Sequence[str],
        in_place: Collection[str],
    ) -> None:
        self._store, self._in_place = store, in_place
        self._places = dict(zip(keys, store.find(hashes).tolist(), strict=True))

    def gather(self, keys: Sequence[Any]) -> Features:
        """Fields of items, with the batch axis first; zeros where the key is None."""
        places = np.array([-1 if key is None else self._places[key] for key in keys], np.int64)
        # a loader's worker sends tensors, so memory-mapped lists are for the main process only
        return self._store.gather(places, self._in_place if get_worker_info() is None else ())


@dataclass(eq=False)
class CachedDataset(Dataset[Batch]):
    """Whole batches of stored features for a dataset's rows.

    A loader requests all rows of a batch at once, so nothing has to be collated.

    Attributes:
        dataset: dataset that names the image and text of each row.
        images: stored images, with :class:`ImageKey` as keys.
        texts: stored texts.
        processor: processor that adds ids, presence masks and labels.
    """

    dataset: ImageTextDataset
    images: StoredItems
    texts: StoredItems
    processor: Processor

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the pairs that are drawn."""
        self.dataset.set_epoch(epoch)

    def __getitems__(self, indices: list[int]) -> Batch:
        """The batch of these rows."""
        rows, root = [*map(self.dataset.row, indices)], str(self.dataset.image_root)
        images = (row["image"] for row in rows)
        keys = [None if path is None else ImageKey(root, path) for path in images]
        text_features = self.texts.gather([row["text"] for row in rows])
        batch: Batch = {
            "image_features": self.images.gather(keys),
            "text_features": text_features,
            # pooled features have no tokens, so one position represents the text
            "attention_mask": text_features.pop("mask", torch.ones(len(rows), 1)),
        }
        return self.processor.complete(batch, rows)
