"""Predictions and scores of logits.

Shape legend: N samples, C classes.
"""

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from epic_pl.module import EPICModule
from epic_pl.module.metrics import build_metrics
from epic_pl.module.postprocess import Postprocessor
from epic_pl.types import Task

Scores = dict[str, float | None]


@dataclass(frozen=True)
class Evaluator:
    """Predictions and scores of logits on the CPU, with a module's classes and postprocessor.

    Attributes:
        class_names: C names.
        postprocessor: turns logits into probabilities and those into classes.
    """

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
        """The task's metrics and ``loss``; None without a sample.

        Multilabel metrics are those at the tuned thresholds. The loss, the mean negative
        log-likelihood, changes where accuracy does not yet.
        """
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
    plain = float(value)
    return plain if math.isfinite(plain) else None
