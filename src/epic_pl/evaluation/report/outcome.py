"""What a test gave, sample by sample, and how it is judged.

Shape legend: B batch, N samples, C classes.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from epic_pl.module import EPICModule
from epic_pl.module.losses import ClassificationLoss
from epic_pl.module.metrics import build_metrics
from epic_pl.module.postprocess import Postprocessor
from epic_pl.types import Batch, Task


@dataclass(frozen=True)
class Outcome:
    """A tested split on the CPU, in the order of the data.

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
    def joined(cls, parts: Sequence["Outcome"]) -> "Outcome":
        """One of several batches."""
        names = ("logits", "labels", "image_present", "text_present")
        tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        return cls([key for part in parts for key in part.sample_id], **tensors)


def presence_of(batch: Batch) -> tuple[Tensor, Tensor]:
    """Which samples have a picture and which a text, two masks ``(B,)`` bool."""
    everyone = torch.ones(len(batch["attention_mask"]), dtype=torch.bool)
    return (
        batch.get("image_present", everyone).bool().cpu(),
        batch.get("text_present", everyone).bool().cpu(),
    )


@dataclass(frozen=True)
class Judge:
    """From logits to answers and scores, as the module does it.

    Attributes:
        class_names: C names.
        postprocessor: the module's, on the CPU.
    """

    class_names: list[str]
    postprocessor: Postprocessor

    @classmethod
    def of(cls, module: EPICModule) -> "Judge":
        """A module's."""
        return cls(module.class_names, deepcopy(module.postprocessor).float().cpu())

    @property
    def task(self) -> Task:
        """One class a sample, or any number."""
        return self.postprocessor.task

    @property
    def thresholds(self) -> Tensor | None:
        """``(C,)`` of a multilabel task, else None."""
        return self.postprocessor.thresholds

    @property
    def temperature(self) -> float:
        """By which logits are divided."""
        return float(self.postprocessor.temperature)

    def probabilities(self, logits: Tensor, calibrated: bool = True) -> Tensor:
        """``(N, C)`` float32."""
        post = self.postprocessor
        return post(logits) if calibrated else post.uncalibrated(logits)

    def assigned(self, logits: Tensor) -> Tensor:
        """Class indices ``(N,)``, or 0/1 ``(N, C)`` of a multilabel task."""
        return self.postprocessor.predict(self.postprocessor(logits))

    def scores(self, logits: Tensor, labels: Tensor) -> dict[str, float | None]:
        """The task's metrics and ``loss``; None where there is no sample.

        Multilabel metrics are those at the thresholds. The loss is the mean negative log-likelihood
        of the calibrated probabilities, which moves where accuracy does not yet.
        """
        metrics = build_metrics(self.task, len(self.class_names), "")
        if not len(logits):
            return {**{str(name): None for name in metrics}, "loss": None}
        given = self.probabilities(logits) if self.thresholds is None else self.assigned(logits)
        metrics.update(given, labels.int())
        found = {str(name): number(value) for name, value in metrics.compute().items()}
        return {
            **found,
            "loss": number(ClassificationLoss(self.task)(logits / self.temperature, labels)),
        }

    def names(self, assigned: Tensor) -> list[str]:
        """Of one sample's class index, or 0/1 ``(C,)``."""
        indices = [int(assigned)] if assigned.ndim == 0 else assigned.nonzero()[:, 0].tolist()
        return [self.class_names[index] for index in indices]


def number(value: Any) -> float | None:
    """A plain number for JSON, which knows no NaN."""
    plain = float(value)
    return plain if math.isfinite(plain) else None
