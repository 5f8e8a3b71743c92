"""Absent modalities: who is there, and who is left out in training. Shape legend: B batch."""

import torch
from torch import Tensor


def drop_modalities(
    image_present: Tensor, text_present: Tensor, probability: float
) -> tuple[Tensor, Tensor]:
    """Leave out one modality of some samples, for training.

    Each sample that has both loses one with ``probability``, picture or text with equal chance;
    a sample that has one keeps it, so nobody is left with nothing.

    Args:
        image_present: ``(B,)`` bool.
        text_present: ``(B,)`` bool.
        probability: between 0 and 1.

    Returns:
        The two new masks ``(B,)``.
    """
    draw = torch.rand(image_present.shape, device=image_present.device)
    both = image_present & text_present
    drop_image = both & (draw < probability / 2)
    drop_text = both & (draw >= probability / 2) & (draw < probability)
    return image_present & ~drop_image, text_present & ~drop_text
