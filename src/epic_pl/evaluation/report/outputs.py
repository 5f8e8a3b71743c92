"""Outputs of a test, sample by sample.

Shape legend: B batch, N samples, C classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from epic_pl.types import Batch


class SplitOutputs(NamedTuple):
    """Outputs of a tested split on the CPU, in the order of the data.

    Attributes:
        sample_id: N ids.
        logits: ``(N, C)`` float32.
        labels: ``(N,)`` class indices or ``(N, C)`` 0/1.
        image_present: ``(N,)`` bool.
        text_present: ``(N,)`` bool.
    """

    sample_id: list[str]
    logits: Tensor
    labels: Tensor
    image_present: Tensor
    text_present: Tensor

    @classmethod
    def concatenate(cls, parts: Sequence["SplitOutputs"]) -> "SplitOutputs":
        """Join the outputs of several batches."""
        ids, *tensors = zip(*parts, strict=True)
        return cls([key for each in ids for key in each], *map(torch.cat, tensors))


def presence_masks(batch: Batch) -> tuple[Tensor, Tensor]:
    """``image_present`` and ``text_present`` of a batch, each ``(B,)`` bool on the CPU."""
    present = torch.ones(len(batch["attention_mask"]), dtype=torch.bool)
    return (
        batch.get("image_present", present).bool().cpu(),
        batch.get("text_present", present).bool().cpu(),
    )
