"""Pairs of values of two modalities, and the sources that samples have.

Shape legend: B batch, D features.
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
    """Masks ``(B,)`` bool of the samples that have an image, a text, and cells of a table.

    They are False where the source is missing; None if all samples have it.

    Example:
        >>> Presence(text=torch.tensor([True, False])).image is None
        True
    """

    image: Tensor | None = None
    text: Tensor | None = None
    columns: Tensor | None = None


class Source(NamedTuple):
    """Features ``(B, D)`` of one source, and the mask ``(B,)`` of the samples that have it.

    A source is the image, the text, or the columns of a table; the mask is None if all have it.
    """

    features: Tensor
    present: Tensor | None = None


def drop_sources(image: Tensor, text: Tensor, columns: Tensor | None, p: float) -> Presence:
    """Drop sources of some samples, for training.

    Each complete sample loses image or text with probability ``p``, both equally likely. Unimodal
    samples are unchanged, so that every sample keeps a modality. Columns are dropped apart from
    them, with the same probability.

    Args:
        image: mask ``(B,)`` bool of the samples with an image.
        text: mask ``(B,)`` bool of the samples with a text.
        columns: mask ``(B,)`` bool of the samples with cells, or None without columns.
        p: probability between 0 and 1 that a complete sample loses a modality.
    """
    uniform = torch.rand(image.shape, device=image.device)
    both = image & text
    drop_image = both & (uniform < p / 2)
    drop_text = both & (uniform >= p / 2) & (uniform < p)
    if columns is not None:
        columns = columns & (torch.rand(image.shape, device=image.device) >= p)
    return Presence(image & ~drop_image, text & ~drop_text, columns)


def both_present(present: Presence) -> Tensor | None:
    """Mask ``(B,)`` of the samples with both modalities; None if all samples have both."""
    if present.image is None or present.text is None:
        return present.text if present.image is None else present.image
    return present.image & present.text


def where_present(values: Tensor, present: Tensor | None) -> Tensor:
    """``values (B, ...)`` with zeros where ``present (B,)`` is False, also for NaN."""
    if present is None:
        return values
    return torch.where(present.view(-1, *[1] * (values.ndim - 1)), values, 0)
