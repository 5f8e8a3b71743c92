"""Pairs of values of two modalities, and what samples have of them.

Shape legend: B batch, F features of a table's columns.
"""

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


class Presence(NamedTuple):
    """What the samples of a batch have.

    Masks ``image`` and ``text (B,)`` bool are False where the modality is missing; None if all
    samples have it. ``columns (B, F)`` are the features of a table's columns, zeros where a sample
    has none; None without columns.

    Example:
        >>> Presence(text=torch.tensor([True, False])).image is None
        True
    """

    image: Tensor | None = None
    text: Tensor | None = None
    columns: Tensor | None = None


def drop_modalities(
    image: Tensor, text: Tensor, columns: Tensor | None, probability: float
) -> Presence:
    """Drop one modality of some samples, for training.

    Each complete sample loses image or text with ``probability``, both equally likely. Unimodal
    samples are unchanged, so that every sample keeps a modality. Columns are dropped apart from
    them, with the same probability.

    Args:
        image: mask ``(B,)`` bool of the samples with an image.
        text: mask ``(B,)`` bool of the samples with a text.
        columns: features ``(B, F)`` of the columns, or None.
        probability: probability between 0 and 1 that a complete sample loses a modality.

    Returns:
        The new masks ``(B,)`` and columns.
    """
    uniform = torch.rand(image.shape, device=image.device)
    both = image & text
    drop_image = both & (uniform < probability / 2)
    drop_text = both & (uniform >= probability / 2) & (uniform < probability)
    if columns is not None:
        kept = torch.rand(image.shape, device=image.device) >= probability
        columns = where_present(columns, kept)
    return Presence(image & ~drop_image, text & ~drop_text, columns)


def both_present(present: Presence) -> Tensor | None:
    """Mask ``(B,)`` of the samples with both modalities; None if all samples have both."""
    image, text, _ = present
    if image is None or text is None:
        return text if image is None else image
    return image & text


def where_present(values: Tensor, present: Tensor | None) -> Tensor:
    """``values (B, ...)`` with zeros where ``present (B,)`` is False, also for NaN."""
    if present is None:
        return values
    return torch.where(present.view(-1, *[1] * (values.ndim - 1)), values, 0)
