"""Where cached loaders read: two stores, asked by the names of pictures and texts.

Shape legend: B batch, N tokens.
"""

from collections.abc import Collection, Sequence
from threading import current_thread, main_thread

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from epic_pl.features import FeatureStore
from epic_pl.features.dataset import PictureKey
from epic_pl.lazy_tensor import LazyTensor, whole
from epic_pl.types import Features


class StoredFeatures:
    """Two stores, asked by picture path and view, and by text.

    Args:
        images: store of the pictures.
        texts: store of the texts.
        image_rows: rows of the pictures.
        text_rows: rows of the texts.
        views: stored of each training picture.
        in_place: fields that the model can read where they are stored.
    """

    def __init__(
        self,
        images: FeatureStore,
        texts: FeatureStore,
        image_rows: dict[PictureKey, int],
        text_rows: dict[str, int],
        views: int,
        in_place: Collection[str] = (),
    ) -> None:
        self.images, self.texts, self.views = images, texts, views
        self._in_place = in_place
        self._image_rows, self._text_rows = image_rows, text_rows

    def image_rows(self, keys: Sequence[PictureKey | None]) -> npt.NDArray[np.int64]:
        """(B,) rows, -1 for a picture that is absent."""
        return np.array([-1 if key is None else self._image_rows[key] for key in keys], np.int64)

    def text_rows(self, texts: Sequence[str | None]) -> npt.NDArray[np.int64]:
        """(B,) rows, -1 for a text that is absent."""
        return np.array([-1 if text is None else self._text_rows[text] for text in texts], np.int64)

    def gather_images(self, rows: npt.NDArray[np.int64]) -> Features:
        """Fields of pictures, batch first."""
        return self._gather(self.images, rows)

    def gather_texts(self, rows: npt.NDArray[np.int64]) -> tuple[Features, Tensor]:
        """Fields of texts, batch first, and their mask ``(B, N)``."""
        return masked(self._gather(self.texts, rows), len(rows))

    def _gather(self, store: FeatureStore, rows: npt.NDArray[np.int64]) -> Features:
        # from a loader's worker a batch travels as tensors
        in_place = self._in_place if get_worker_info() is None else ()
        fields = store.gather(rows, zero_absent=True, in_place=in_place)
        stays = any(isinstance(field, LazyTensor) for field in fields.values())
        if stays and current_thread() is not main_thread():
            store.prefetch(rows)  # loaded ahead: the disk may read while a step runs
        return fields


def masked(fields: Features, batch: int) -> tuple[Features, Tensor]:
    """Fields of texts without their mask, and it ``(B, N)``."""
    # a store of pooled outputs has no tokens: one position stands for the text
    mask = whole(fields.pop("mask")) if "mask" in fields else torch.ones(batch, 1)
    return fields, mask
