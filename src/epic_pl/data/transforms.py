"""Transforms of images to tensors: size and normalisation of the encoder, and augmentation."""

from functools import partial
from typing import Any, cast

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from epic_pl.data.preprocessing import ImagePreprocessing
from epic_pl.utils.validate import check_word

AUGMENTATIONS = ("none", "flip", "crop", "randaugment", "randaugment_only")
_MAX_ASPECT = 4  # images with a higher ratio of sides are trimmed before they are resized


class ImageTransform:
    """Transforms an RGB image to a normalised tensor ``(3, size, size)`` float32.

    Attributes:
        random: whether two calls with one image may differ.
        min_size: shorter side in pixels to which an image may be shrunk when it is decoded.
    """

    def __init__(self, geometry: list[Any], p: ImagePreprocessing, *, random: bool) -> None:
        self.random = random
        # twice the resized side, since shrinking to that before resampling is not visible
        self.min_size = 2 * p.resized
        self._trims = p.resize == "crop"
        self._geometry = v2.Compose(geometry)
        std = np.array(p.std, np.float32)[:, None, None]  # (3, 1, 1)
        self._scale = 1 / (255 * std)
        self._shift = -np.array(p.mean, np.float32)[:, None, None] / std

    def __call__(self, image: Image.Image) -> Tensor:
        """The transformed image ``(3, size, size)``."""
        image = _trimmed(image) if self._trims else image
        pixels = np.array(self._geometry(image)).transpose(2, 0, 1)  # (3, H, W) uint8
        # two passes over the pixels instead of six, and in numpy, since torch would start OpenMP
        # threads for each thread that decodes, which slow down those of the model
        scaled = np.multiply(np.ascontiguousarray(pixels), self._scale)
        return torch.from_numpy(np.add(scaled, self._shift, out=scaled))


def _trimmed(image: Image.Image) -> Image.Image:
    """The centre of a very long image, which would take much memory when resized."""
    long, short = max(image.size), min(image.size)
    if long <= _MAX_ASPECT * short:
        return image
    sides = [min(side, _MAX_ASPECT * short) for side in (image.height, image.width)]
    return cast(Image.Image, v2.functional.center_crop(image, sides))


def build_image_transform(
    p: ImagePreprocessing, train: bool, augment: str = "none"
) -> ImageTransform:
    """Build the transform of a split.

    Args:
        p: preprocessing of the encoder.
        train: whether the split is for training, so that images are augmented.
        augment: ``none``; ``flip`` (mirrored half of the time); ``crop`` (flip, and a random 80 to
            100% of the area); ``randaugment`` (crop, then RandAugment of Cubuk et al., arXiv
            1909.13719); ``randaugment_only`` (without mirroring or cropping).

    Raises:
        ConfigError: if ``augment`` is unknown.
    """
    check_word(AUGMENTATIONS, augment=augment)
    mode = InterpolationMode(p.interpolation)
    resize: Any = v2.Resize(p.resized, interpolation=mode)
    if p.resize == "squash":
        resize = v2.Resize((p.resized, p.resized), interpolation=mode)
    elif p.resize == "pad":  # centre the image on a square of the mean colour
        resampling = Image.Resampling[p.interpolation.upper()]
        colour = tuple(round(255 * mean) for mean in p.mean)
        resize = partial(ImageOps.pad, size=(p.resized, p.resized), method=resampling, color=colour)
    steps = [resize, v2.CenterCrop(p.size)]
    if not train or augment == "none":
        return ImageTransform(steps, p, random=False)
    if augment in ("crop", "randaugment"):
        steps = [v2.RandomResizedCrop(p.size, scale=(0.8, 1.0), interpolation=mode)]
    if augment != "randaugment_only":
        steps.append(v2.RandomHorizontalFlip())
    if augment.startswith("randaugment"):
        steps.append(v2.RandAugment())
    return ImageTransform(steps, p, random=True)
