"""Pairs of values of two modalities, and presence masks. Shape legend: B batch."""

from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Pair(NamedTuple, Generic[T]):
    """A value for the image and one for the text.

    Example:
        >>> Pair(image=384, text=256).text
        256
    """

    image: T
    text: T


Presence = Pair[Tensor | None]
"""Masks ``(B,)`` bool, False where a modality is missing; None if all samples have both."""


def drop_modalities(present: Pair[Tensor], probability: float) -> Presence:
    """Drop one modality of some samples, for training.

    Each complete sample loses one modality with ``probability``, image or text equally likely.
    Unimodal samples are unchanged, so that every sample keeps a modality.

    Args:
        present: masks ``(B,)`` bool of the samples with each modality.
        probability: probability between 0 and 1 that a complete sample loses a modality.

    Returns:
        The new masks ``(B,)``.
    """
    uniform = torch.rand(present.image.shape, device=present.image.device)
    both = present.image & present.text
    drop_image = both & (uniform < probability / 2)
    drop_text = both & (uniform >= probability / 2) & (uniform < probability)
    return Pair(present.image & ~drop_image, present.text & ~drop_text)


def both_present(present: Presence) -> Tensor | None:
    """Mask ``(B,)`` of the samples with both modalities; None if all samples have both."""
    image, text = present
    if image is None or text is None:
        return text if image is None else image
    return image & text


def where_present(values: Tensor, present: Tensor | None) -> Tensor:
    """``values (B, ...)`` with zeros where ``present (B,)`` is False, also for NaN."""
    if present is None:
        return values
    return torch.where(present.view(-1, *[1] * (values.ndim - 1)), values, 0)
