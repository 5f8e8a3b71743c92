"""Predictions and scores of logits.

Shape legend: B batch, N samples, C classes.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from epic_pl.data.preprocessing import ImagePreprocessing
from epic_pl.module import EPICModule
from epic_pl.module.metrics import build_metrics
from epic_pl.module.postprocess import Postprocessor
from epic_pl.types import Batch, Task

Scores = dict[str, float | None]


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


def as_pil_image(image: Tensor, preprocessing: ImagePreprocessing) -> Image.Image:
    """An encoder's input ``(3, H, W)`` as a PIL image."""
    mean, std = (
        image.new_tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std)
    )
    drawn: Image.Image = V.to_pil_image((image * std + mean).clamp(0, 1))
    return drawn


@dataclass(frozen=True)
class Evaluator:
    """Predictions and scores of logits on the CPU, with a module's classes and postprocessor."""

    class_names: list[str]
    postprocessor: Postprocessor

    @classmethod
    def of(cls, module: EPICModule) -> "Evaluator":
        """Evaluator of a trained module."""
        return cls(module.class_names, deepcopy(module.postprocessor).float().cpu())

    @property
    def task(self) -> Task:
        """One class a sample, or any number."""
        return self.postprocessor.task

    def probabilities(self, logits: Tensor) -> Tensor:
        """Calibrated probabilities ``(N, C)`` float32."""
        return self.postprocessor(logits)  # type: ignore[no-any-return]  # nn.Module gives Any

    def predict(self, logits: Tensor) -> Tensor:
        """Class indices ``(N,)``, or 0/1 ``(N, C)`` of a multilabel task."""
        return self.postprocessor.predict(self.probabilities(logits))

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Negative log-likelihood ``(N,)`` of the labels; multilabel: the mean over classes."""
        scaled = logits.float() / self.postprocessor.temperature
        if self.task == "multiclass":
            return F.cross_entropy(scaled, labels, reduction="none")
        each = F.binary_cross_entropy_with_logits(scaled, labels.float(), reduction="none")
        return each.mean(dim=1)

    def scores(self, logits: Tensor, labels: Tensor) -> Scores:
        """The task's metrics, at tuned thresholds if multilabel, and ``loss``; None if empty."""
        metrics = build_metrics(self.task, len(self.class_names), "")
        if not len(logits):
            return {**{str(name): None for name in metrics}, "loss": None}
        multilabel = self.task == "multilabel"
        metrics.update(
            self.predict(logits) if multilabel else self.probabilities(logits), labels.int()
        )
        scores = {str(name): finite(value) for name, value in metrics.compute().items()}
        return {**scores, "loss": finite(self.losses(logits, labels).mean())}

    def names(self, predicted: Tensor) -> list[str]:
        """Names for one sample's class index, or for its 0/1 ``(C,)``."""
        indices = [int(predicted)] if predicted.ndim == 0 else predicted.nonzero()[:, 0].tolist()
        return [self.class_names[index] for index in indices]


def finite(value: Any) -> float | None:
    """A number for JSON, which has no NaN."""
    return float(value) if math.isfinite(value) else None
