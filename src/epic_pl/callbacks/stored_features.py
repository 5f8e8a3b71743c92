"""Where cached loaders read: two stores, asked by the names of pictures and texts.

Shape legend: B batch, N tokens.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from epic_pl.cache import FeatureStore
from epic_pl.data.features import PictureKey


class StoredFeatures:
    """Two stores, asked by picture path and view, and by text."""

    def __init__(
        self,
        images: FeatureStore,
        texts: FeatureStore,
        image_rows: dict[PictureKey, int],
        text_rows: dict[str, int],
        views: int,
    ) -> None:
        self.images, self.texts, self.views = images, texts, views
        self._image_rows, self._text_rows = image_rows, text_rows

    def image_rows(self, keys: Sequence[PictureKey | None]) -> npt.NDArray[np.int64]:
        """(B,) rows, -1 for a picture that is absent."""
        return np.array([-1 if key is None else self._image_rows[key] for key in keys], np.int64)

    def text_rows(self, texts: Sequence[str | None]) -> npt.NDArray[np.int64]:
        """(B,) rows, -1 for a text that is absent."""
        return np.array([-1 if text is None else self._text_rows[text] for text in texts], np.int64)

    def gather_images(self, rows: npt.NDArray[np.int64]) -> dict[str, Tensor]:
        """Fields of pictures, batch first."""
        return self.images.gather(rows, zero_absent=True)

    def gather_texts(self, rows: npt.NDArray[np.int64]) -> tuple[dict[str, Tensor], Tensor]:
        """Fields of texts, batch first, and their mask ``(B, N)``."""
        return masked(self.texts.gather(rows, zero_absent=True), len(rows))


def masked(fields: dict[str, Tensor], batch: int) -> tuple[dict[str, Tensor], Tensor]:
    """Fields of texts without their mask, and it ``(B, N)``."""
    # a store of pooled outputs has no tokens: one position stands for the text
    mask = fields.pop("mask") if "mask" in fields else torch.ones(batch, 1)
    return fields, mask
