"""Items to classify: images and texts from users, checked and converted to samples."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch.utils.data import Dataset

from epic_pl.data.clean_text import clean_text
from epic_pl.data.images import MAX_PIXELS, read_image, upright_rgb
from epic_pl.data.transforms import ImageTransform
from epic_pl.utils.errors import DataError
from epic_pl.utils.types import Sample

ImageInput = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any]
"""A path, a file's content, a PIL image, or pixels (H, W), (H, W, 3) or (H, W, 4) as uint8, or
greyscale (H, W) as uint16. URLs are refused: nothing is downloaded."""

_HALF = re.compile("[\ud800-\udfff]")  # what tokenizers refuse


class Item(TypedDict, total=False):
    """One sample to classify; a modality that is None or left out is missing."""

    image: ImageInput | None
    text: str | None


class ItemDataset(Dataset[Sample]):
    """Items as samples; images are read on access.

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
        if isinstance(items, Mapping | str | os.PathLike):
            raise DataError("For one item write clf(image=..., text=...), or put it into a list.")
        for number, item in enumerate(items):
            check_item(item, f"Item {number}")
        self.items = items
        self.transform = transform
        self.clean = clean

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        try:
            return read_item(self.items[index], self.transform, self.clean, str(index))
        except DataError as error:
            raise DataError(f"Item {index}: {error}") from error


def check_item(item: Any, name: str) -> None:
    """Check an item, which messages call ``name``, without reading a file.

    Raises:
        DataError: it is not a mapping, has another key, or neither image nor text.
    """
    if not isinstance(item, Mapping):
        raise DataError(
            f"{name} is a {type(item).__name__}: give dictionaries such as "
            '{"image": "dish.jpg", "text": "Ramen"}.'
        )
    if unknown := sorted(set(item) - {"image", "text"}):
        raise DataError(f"{name} has the key {unknown[0]!r}; known are image and text.")
    image, text = item.get("image"), item.get("text")
    if image is None and text is None:
        raise DataError(f"{name} has neither image nor text: give one of them.")
    if isinstance(image, float) or (isinstance(image, str) and not image):
        raise DataError(f"{name} has {image!r} as image: give None where there is none.")
    if not isinstance(text, str | None):
        raise DataError(
            f"{name} has a {type(text).__name__} as text ({text!r:.40}): give a string, or None "
            "where there is none."
        )
    if text is not None and _HALF.search(text):
        raise DataError(f"{name} has half of a character in its text: write it as UTF-8 again.")


def read_item(
    item: Mapping[str, Any],
    transform: ImageTransform,
    clean: bool,
    sample_id: str,
    max_pixels: int = MAX_PIXELS,
) -> Sample:
    """A checked item as a sample, its image read and its text cleaned if ``clean``.

    Raises:
        DataError: the image cannot be read.
    """
    image, text = item.get("image"), item.get("text")
    pixels = None if image is None else transform(as_rgb(image, transform.min_size, max_pixels))
    if text is not None and clean:
        text = clean_text(text)
    return {"sample_id": sample_id, "image": pixels, "text": text, "label": None}


def as_rgb(image: Any, min_size: int | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An image as upright 8-bit RGB; see :func:`~epic_pl.data.images.read_image`.

    Raises:
        DataError: it is not an :data:`ImageInput`, or cannot be read.
    """
    if isinstance(image, str) and "://" in image:
        raise DataError(f"{image} is an address: fetch the image, and give its file or bytes.")
    if isinstance(image, str | os.PathLike):
        return read_image(Path(image), min_size, max_pixels)
    if isinstance(image, bytes | bytearray | memoryview):
        return read_image(bytes(image), min_size, max_pixels)
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
