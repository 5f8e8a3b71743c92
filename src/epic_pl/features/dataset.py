"""Batches of stored features for a dataset's rows; no picture is decoded.

Shape legend: B batch, N tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from epic_pl.data.collate import Collator
from epic_pl.data.datamodule import FeatureProvider
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.datasets.entailment import EntailmentPairs
from epic_pl.errors import ConfigError
from epic_pl.types import Batch, Features, Reference

FeatureDataset = ImageTextDataset | EntailmentPairs


class PictureKey(NamedTuple):
    """A picture by the folder of its split, its path there, and its augmented view.

    View -1 is the picture as transformed for evaluation.
    """

    root: str
    path: str
    view: int


class FeatureSource(Protocol):
    """Where stored features are read; a missing item comes as zeros."""

    views: int

    def images(self, keys: Sequence[PictureKey | None]) -> Features:
        """Stored fields of pictures, batch first."""

    def texts(self, texts: Sequence[str | None]) -> tuple[Features, Tensor]:
        """Stored fields of texts, batch first, and their mask ``(B, N)``."""


class CachedDataset(Dataset[Batch]):
    """Whole batches of stored features for a dataset's rows.

    A loader asks it for all rows of a batch at once, so there is nothing left to collate.

    Args:
        dataset: names the picture and text of each row.
        source: the stores.
        collator: makes the labels.
        train: whether stored views are drawn, by (seed, epoch, row); else evaluation's is taken.
    """

    def __init__(
        self, dataset: FeatureDataset, source: FeatureSource, collator: Collator, train: bool
    ) -> None:
        self.dataset = dataset
        self.source = source
        self.collator = collator
        self.train = train
        self._epoch = 0
        self._root = str(pictures(dataset).image_root)

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose pairs and views are drawn."""
        self._epoch = epoch
        self.dataset.set_epoch(epoch)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        """The batch of these rows."""
        rows = [self.dataset.reference(index) for index in indices]
        keys = [self._key(index, row["image"]) for index, row in zip(indices, rows, strict=True)]
        text_features, mask = self.source.texts([row["text"] for row in rows])
        batch: Batch = {
            "image_features": self.source.images(keys),
            "text_features": text_features,
            "attention_mask": mask,
            "sample_id": [row["sample_id"] for row in rows],
            "picture": [row["image"] or "" for row in rows],
        }
        present = [_present(rows, "image"), _present(rows, "text")]
        if not all(bool(mask.all()) for mask in present):
            batch["image_present"], batch["text_present"] = present
        if all(row["label"] is not None for row in rows):
            batch["labels"] = self.collator.labels(rows)
        return batch

    def _key(self, index: int, path: str | None) -> PictureKey | None:
        return None if path is None else PictureKey(self._root, path, self._view(index))

    def _view(self, index: int) -> int:
        if not self.train or self.source.views == 0:
            return -1
        seed = (pictures(self.dataset).seed, self._epoch, index)
        return int(np.random.default_rng(seed).integers(self.source.views))


def by_name(dataset: Dataset[Any]) -> FeatureDataset:
    """The dataset itself, if its rows have names.

    Raises:
        ConfigError: if not.
    """
    if isinstance(dataset, FeatureDataset):
        return dataset
    raise ConfigError(
        f"{type(dataset).__name__} has no names for its rows' pictures and texts, as stored "
        "features need: set cache.level to off."
    )


def pictures(dataset: FeatureDataset) -> ImageTextDataset:
    """The dataset that reads the pictures."""
    return dataset.pictures if isinstance(dataset, EntailmentPairs) else dataset


def feature_provider(source: FeatureSource) -> FeatureProvider:
    """The argument of :meth:`~epic_pl.data.ImageTextDataModule.use_features` for some stores."""

    def provide(dataset: Dataset[Any], collator: Collator, train: bool) -> CachedDataset:
        return CachedDataset(by_name(dataset), source, collator, train)

    return provide


def _present(rows: Sequence[Reference], modality: str) -> Tensor:
    values: list[Mapping[str, Any]] = list(rows)
    return torch.tensor([row[modality] is not None for row in values])
