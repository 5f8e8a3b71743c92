"""Items to classify: images and texts from users, checked and converted to samples."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch.utils.data import Dataset

from epic_pl.data.clean_text import clean_text
from epic_pl.data.images import read_image, upright_rgb
from epic_pl.data.transforms import ImageTransform
from epic_pl.errors import DataError
from epic_pl.types import Sample

ImageInput = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any]
"""A path, a file's content, a PIL image, or pixels (H, W), (H, W, 3) or (H, W, 4) as uint8, or
greyscale (H, W) as uint16. URLs are refused: nothing is downloaded."""


class Item(TypedDict, total=False):
    """One sample to classify; a modality that is None or left out is missing."""

    image: ImageInput | None
    text: str | None


class Items(Dataset[Sample]):
    """A dataset of items; images are read on access.

    Args:
        items: items, checked without reading a file.
        transform: RGB image to ``(3, H, W)`` float32.
        clean: whether to clean texts.

    Raises:
        DataError: an item is not a mapping, has another key, or neither image nor text.
    """

    def __init__(
        self, items: Sequence[Mapping[str, Any]], transform: ImageTransform, clean: bool
    ) -> None:
        if isinstance(items, Mapping):
            raise DataError("For one item write clf(image=..., text=...), or put it into a list.")
        for number, item in enumerate(items):
            _check(number, item)
        self.items = items
        self.transform = transform
        self.clean = clean

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        image, text = (self.items[index].get(key) for key in ("image", "text"))
        try:
            pixels = None
            if image is not None:
                pixels = self.transform(as_rgb(image, self.transform.min_size))
        except DataError as error:
            raise DataError(f"Item {index}: {error}") from error
        if text is not None and self.clean:
            text = clean_text(text)
        return {"sample_id": str(index), "image": pixels, "text": text, "label": None}


def _check(number: int, item: Any) -> None:
    if not isinstance(item, Mapping):
        raise DataError(
            f"Item {number} is a {type(item).__name__}: give dictionaries such as "
            '{"image": "dish.jpg", "text": "Ramen"}.'
        )
    if unknown := sorted(set(item) - {"image", "text"}):
        raise DataError(f"Item {number} has the key {unknown[0]!r}; known are image and text.")
    if item.get("image") is None and item.get("text") is None:
        raise DataError(f"Item {number} has neither image nor text: give one of them.")
    text = item.get("text")
    if not isinstance(text, str | None):
        raise DataError(
            f"The text of item {number} is a {type(text).__name__} ({text!r:.40}): give a string, "
            "or None where there is none."
        )


def as_rgb(image: Any, min_size: int | None = None) -> Image.Image:
    """An image as upright 8-bit RGB; see :func:`~epic_pl.data.images.read_image`.

    Raises:
        DataError: it is not an :data:`ImageInput`, or cannot be read.
    """
    if isinstance(image, str) and "://" in image:
        raise DataError(f"{image} is an address: fetch the image, and give its file or bytes.")
    if isinstance(image, str | os.PathLike):
        return read_image(Path(image), min_size)
    if isinstance(image, bytes | bytearray | memoryview):
        return read_image(bytes(image), min_size)
    try:
        if isinstance(image, Image.Image):
            return upright_rgb(image.copy())
        return upright_rgb(_from_pixels(np.asarray(image)))
    except (ValueError, TypeError, OSError) as error:
        raise DataError(
            f"This image cannot be used: {error}. Give a path, a file's bytes, a PIL image, or "
            "pixels of shape (H, W), (H, W, 3) or (H, W, 4) as uint8, or (H, W) as uint16."
        ) from error


def _from_pixels(pixels: npt.NDArray[Any]) -> Image.Image:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    coloured = pixels.ndim == 3 and pixels.shape[2] in (3, 4)
    grey = pixels.ndim == 2
    fits = pixels.dtype == np.uint8 or (grey and pixels.dtype == np.uint16)
    if not (coloured or grey) or not fits or 0 in pixels.shape:
        raise ValueError(f"it is an array of shape {pixels.shape} and type {pixels.dtype}")
    return Image.fromarray(np.ascontiguousarray(pixels))
