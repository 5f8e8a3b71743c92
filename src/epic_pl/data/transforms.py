"""Pictures to tensors: geometry and normalisation as the encoder had them, and augmentation."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from epic_pl.data.preprocessing import ImagePreprocessing
from epic_pl.errors import ConfigError

AUGMENTATIONS = ("none", "flip", "crop", "randaugment")
# a picture longer than this many times its width is trimmed before it is resized
_MAX_ASPECT = 4


class ImageTransform:
    """RGB picture to normalised ``(3, size, size)`` float32.

    Attributes:
        random: whether two calls may differ.
        min_size: pictures decoded to no less than this lose nothing.
    """

    def __init__(self, geometry: list[Any], p: ImagePreprocessing, *, random: bool) -> None:
        self.random = random
        # twice the resize target: halving and then resampling leaves no visible trace
        self.min_size = 2 * _resize_side(p)
        self._steps = v2.Compose(
            [
                *geometry,
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(mean=list(p.mean), std=list(p.std)),
            ]
        )

    def __call__(self, image: Image.Image) -> Tensor:
        """Transform a picture."""
        # plain tensors stack and pickle faster than torchvision's subclass
        pixels: Tensor = self._steps(_trimmed(image)).as_subclass(Tensor)
        return pixels


def _resize_side(p: ImagePreprocessing) -> int:
    return round(p.size / p.crop_pct)


def _trimmed(image: Image.Image) -> Image.Image:
    """The centre of a very long picture, whose resized copy could fill the memory."""
    long, short = max(image.size), min(image.size)
    if long <= _MAX_ASPECT * short:
        return image
    sides = [min(side, _MAX_ASPECT * short) for side in (image.height, image.width)]
    centre: Image.Image = v2.functional.center_crop(image, sides)
    return centre


def build_image_transform(
    p: ImagePreprocessing, train: bool, augment: str = "none"
) -> ImageTransform:
    """The transform of a split.

    Args:
        p: the encoder's preprocessing.
        train: augment; otherwise shorter side to ``size / crop_pct``, then a centre crop.
        augment: ``none``; ``flip`` (mirrored half of the time); ``crop`` (flip, and a random 80 to
            100% of the picture); ``randaugment`` (crop, then Cubuk et al., arXiv 1909.13719).

    Raises:
        ConfigError: unknown ``augment`` or interpolation.
    """
    if augment not in AUGMENTATIONS:
        raise ConfigError(f"augment must be one of {', '.join(AUGMENTATIONS)}; got {augment!r}.")
    try:
        mode = InterpolationMode(p.interpolation)
    except ValueError as error:
        known = ", ".join(m.value for m in InterpolationMode)
        raise ConfigError(f"Interpolation {p.interpolation!r} is none of {known}.") from error
    centre = [v2.Resize(_resize_side(p), interpolation=mode), v2.CenterCrop(p.size)]
    if not train or augment == "none":
        return ImageTransform(centre, p, random=False)
    if augment == "flip":
        return ImageTransform([*centre, v2.RandomHorizontalFlip()], p, random=True)
    steps = [
        v2.RandomResizedCrop(p.size, scale=(0.8, 1.0), interpolation=mode),
        v2.RandomHorizontalFlip(),
    ]
    if augment == "randaugment":
        steps.append(v2.RandAugment())
    return ImageTransform(steps, p, random=True)
