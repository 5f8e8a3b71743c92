"""Values of two modalities, and which of them are present. Shape legend: B batch."""

from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Pair(NamedTuple, Generic[T]):
    """One value of the image and one of the text."""

    image: T
    text: T


Presence = Pair[Tensor | None]
"""Masks ``(B,)`` bool, False where a modality is missing; None where all samples have both."""


def drop_modalities(present: Pair[Tensor], probability: float) -> Presence:
    """Drop one modality of some samples, for training.

    Each sample that has both loses one with ``probability``, image or text with equal chance.
    Unimodal samples stay as they are, so that no sample is left with nothing.

    Args:
        present: masks ``(B,)`` bool.
        probability: between 0 and 1.

    Returns:
        The new masks ``(B,)``.
    """
    draw = torch.rand(present.image.shape, device=present.image.device)
    both = present.image & present.text
    drop_image = both & (draw < probability / 2)
    drop_text = both & (draw >= probability / 2) & (draw < probability)
    return Pair(present.image & ~drop_image, present.text & ~drop_text)


def both_present(present: Presence) -> Tensor | None:
    """Mask ``(B,)`` of the samples with both modalities; None where that is all of them."""
    image, text = present
    if image is None or text is None:
        return text if image is None else image
    return image & text


def where_present(values: Tensor, present: Tensor | None) -> Tensor:
    """``values (B, ...)`` with zeros where ``present (B,)`` is False, even in place of NaN."""
    if present is None:
        return values
    return torch.where(present.view(-1, *[1] * (values.ndim - 1)), values, 0)
