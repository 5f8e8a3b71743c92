"""Where cached loaders read: two stores, asked by pictures and texts.

Shape legend: B batch, N tokens.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from epic_pl.features.dataset import PictureKey
from epic_pl.features.store.reader import FeatureStore
from epic_pl.lazy_tensor import whole
from epic_pl.types import Features


class StoredItems:
    """A store and the rows of its items.

    Args:
        store: of one modality.
        rows: row of each item.
        in_place: fields that the model can read where they are stored.
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
    """Stored pictures and texts.

    Args:
        images: the pictures, by :class:`PictureKey`.
        texts: the texts.
        views: stored of each training picture.
    """

    def __init__(self, images: StoredItems, texts: StoredItems, views: int) -> None:
        self._images, self._texts, self.views = images, texts, views

    def images(self, keys: Sequence[PictureKey | None]) -> Features:
        """Fields of pictures, batch first."""
        return self._images.gather(keys)

    def texts(self, texts: Sequence[str | None]) -> tuple[Features, Tensor]:
        """Fields of texts, batch first, and their mask ``(B, N)``."""
        fields = self._texts.gather(texts)
        # pooled features have no tokens: one position represents the text
        mask = whole(fields.pop("mask")) if "mask" in fields else torch.ones(len(texts), 1)
        return fields, mask
