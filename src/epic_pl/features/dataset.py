"""Batches of stored features for a dataset's rows; no image is decoded.

Shape legend: B batch, N tokens.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from epic_pl.data.collate import Collator
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.features.store.reader import FeatureStore
from epic_pl.types import Batch, Features


class ImageKey(NamedTuple):
    """An image by the folder of its split and its path there."""

    root: str
    path: str


class StoredItems:
    """One modality's store and the rows of its items.

    The model can read the fields ``in_place`` where they are stored.
    """

    def __init__(
        self, store: FeatureStore, rows: Mapping[Any, int], in_place: Collection[str]
    ) -> None:
        self.store, self._rows, self._in_place = store, rows, in_place

    def gather(self, keys: Sequence[Any]) -> Features:
        """Fields of items, batch first; zeros where the key is None."""
        rows = np.array([-1 if key is None else self._rows[key] for key in keys], np.int64)
        # from a loader's worker a batch travels as tensors
        in_place = self._in_place if get_worker_info() is None else ()
        return self.store.gather(rows, in_place)


class StoredFeatures:
    """Stored images, by :class:`ImageKey`, and texts."""

    def __init__(self, images: StoredItems, texts: StoredItems) -> None:
        self._images, self._texts = images, texts

    def images(self, keys: Sequence[ImageKey | None]) -> Features:
        """Fields of images, batch first; zeros of a missing one."""
        return self._images.gather(keys)

    def texts(self, texts: Sequence[str | None]) -> tuple[Features, Tensor]:
        """Fields of texts, batch first, zeros of a missing one, and their mask ``(B, N)``."""
        fields = self._texts.gather(texts)
        # pooled features have no tokens: one position represents the text
        mask = fields.pop("mask") if "mask" in fields else torch.ones(len(texts), 1)
        return fields, mask


class CachedDataset(Dataset[Batch]):
    """Whole batches of stored features for a dataset's rows.

    A loader asks it for all rows of a batch at once, so there is nothing left to collate.

    Args:
        dataset: names the image and text of each row.
        source: the stores.
        collator: makes the labels.
    """

    def __init__(
        self, dataset: ImageTextDataset, source: StoredFeatures, collator: Collator
    ) -> None:
        self.dataset = dataset
        self.source = source
        self.collator = collator
        self._root = str(dataset.image_root)

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose pairs are drawn."""
        self.dataset.set_epoch(epoch)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        """The batch of these rows."""
        rows = [self.dataset.reference(index) for index in indices]
        images = (row["image"] for row in rows)
        keys = [None if path is None else ImageKey(self._root, path) for path in images]
        text_features, mask = self.source.texts([row["text"] for row in rows])
        batch: Batch = {
            "image_features": self.source.images(keys),
            "text_features": text_features,
            "attention_mask": mask,
            "sample_id": [row["sample_id"] for row in rows],
            "image_path": [row["image"] or "" for row in rows],
        }
        image_present = torch.tensor([row["image"] is not None for row in rows])
        text_present = torch.tensor([row["text"] is not None for row in rows])
        if not (image_present.all() and text_present.all()):
            batch["image_present"], batch["text_present"] = image_present, text_present
        if all(row["label"] is not None for row in rows):
            batch["labels"] = self.collator.labels(rows)
        return batch
