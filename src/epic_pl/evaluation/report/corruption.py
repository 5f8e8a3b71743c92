"""Corrupted texts and images, the same ones in every run.

Shape legend: H, W image height and width.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as V

from epic_pl.data.preprocessing import ImagePreprocessing
from epic_pl.types import Sample

Rng = np.random.Generator


def add_typos(text: str, rate: float, rng: Rng) -> str:
    """With probability ``rate``, leave out a character or swap it with the next, half of each.

    Spaces never start a typo.
    """
    kept, at = "", 0
    while at < len(text):
        typo = text[at] != " " and rng.random() < rate
        if typo and rng.random() < 0.5:
            at += 1
            continue
        step = 2 if typo else 1
        kept += text[at : at + step][::-1]
        at += step
    return kept


def drop_words(text: str, rate: float, rng: Rng) -> str:
    """Leave out each word with probability ``rate``; at least one stays."""
    words = text.split()
    kept = [word for word in words if rng.random() >= rate]
    return " ".join(kept or words[:1])


def add_noise(image: Tensor, strength: float, rng: Rng) -> Tensor:
    """Add Gaussian noise with standard deviation ``strength``, where 1 is white minus black."""
    noise = rng.standard_normal(tuple(image.shape), dtype=np.float32)
    return image + strength * torch.from_numpy(noise)


def blur(image: Tensor, strength: float, rng: Rng) -> Tensor:
    """Blur with a Gaussian whose standard deviation is ``strength`` times the shorter side."""
    side = min(image.shape[-2:])
    reach = min(int(np.ceil(3 * strength * side)), side - 1)
    blurred: Tensor = V.gaussian_blur(image, [2 * reach + 1] * 2, [strength * side] * 2)
    return blurred


def coarsen(image: Tensor, strength: float, rng: Rng) -> Tensor:
    """Shrink both sides by the factor ``strength`` and enlarge them again."""
    sides = list(image.shape[-2:])
    small: Tensor = V.resize(image, [max(1, round(side / strength)) for side in sides])
    coarse: Tensor = V.resize(small, sides)
    return coarse


TEXTS: dict[str, Callable[..., str]] = {
    "text: typos in 10% of characters": partial(add_typos, rate=0.1),
    "text: typos in 30% of characters": partial(add_typos, rate=0.3),
    "text: without 10% of words": partial(drop_words, rate=0.1),
    "text: without 30% of words": partial(drop_words, rate=0.3),
}
IMAGES: dict[str, Callable[..., Tensor]] = {
    "image: noise of 0.1": partial(add_noise, strength=0.1),
    "image: noise of 0.3": partial(add_noise, strength=0.3),
    "image: blur of 1% of its side": partial(blur, strength=0.01),
    "image: blur of 3% of its side": partial(blur, strength=0.03),
    "image: a quarter of the resolution": partial(coarsen, strength=4),
    "image: an eighth of the resolution": partial(coarsen, strength=8),
}
CORRUPTIONS = (*TEXTS, *IMAGES)


@dataclass(frozen=True)
class Corrupted(Dataset[Sample]):
    """The first rows of a split with texts or images corrupted; absent ones stay absent.

    Images are changed after resizing and cropping, so that a strength means the same for files
    of every size. The random numbers depend on corruption and row only.
    """

    dataset: Dataset[Sample]
    rows: int
    corruption: str
    preprocessing: ImagePreprocessing

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index].copy()
        rng = np.random.default_rng((zlib.crc32(self.corruption.encode()), index))
        if self.corruption in TEXTS and sample["text"] is not None:
            sample["text"] = TEXTS[self.corruption](sample["text"], rng=rng)
        if self.corruption in IMAGES and sample["image"] is not None:
            scales = torch.tensor([self.preprocessing.mean, self.preprocessing.std])
            mean, std = scales[..., None, None]
            shown = IMAGES[self.corruption](sample["image"] * std + mean, rng=rng)
            sample["image"] = (shown.clamp(0, 1) - mean) / std
        return sample
