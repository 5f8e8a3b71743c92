"""Predictions and scores of logits.

Shape legend: N samples, C classes.
"""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from epic_pl.module import EPICModule
from epic_pl.module.metrics import compute_metrics
from epic_pl.module.postprocess import Postprocessor
from epic_pl.nn.temperature import sample_losses
from epic_pl.utils.types import Task

Scores = dict[str, float | None]


@dataclass(frozen=True)
class Evaluator:
    """Computes predictions and scores from logits on the CPU, as a trained module would."""

    class_names: list[str]
    postprocessor: Postprocessor

    @classmethod
    def of(cls, module: EPICModule) -> "Evaluator":
        """Evaluator of a trained module."""
        return cls(module.class_names, module.postprocessor.on_cpu())

    @property
    def task(self) -> Task:
        """The task: one class per sample, or any number."""
        return self.postprocessor.task

    def probabilities(self, logits: Tensor) -> Tensor:
        """Calibrated probabilities ``(N, C)`` float32."""
        return self.postprocessor(logits)  # type: ignore[no-any-return]  # nn.Module gives Any

    def predict(self, logits: Tensor) -> Tensor:
        """Class indices ``(N,)``, or 0/1 ``(N, C)`` for multilabel."""
        return self.postprocessor.predict(self.probabilities(logits))

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Negative log-likelihood ``(N,)`` of the labels; multilabel: the mean over classes."""
        return sample_losses(self.postprocessor.calibrated(logits), labels, self.task)

    def scores(self, logits: Tensor, labels: Tensor) -> Scores:
        """Metrics of the task at the model's thresholds, and ``loss``; undefined ones are None."""
        probabilities, thresholds = self.probabilities(logits), self.postprocessor.thresholds
        scores = compute_metrics(self.task, probabilities, labels, thresholds)
        scores["loss"] = float(self.losses(logits, labels).mean())
        return {name: finite(value) for name, value in scores.items()}

    def names(self, predicted: Tensor) -> list[str]:
        """Names of the classes of one sample: of its class index, or of its 0/1 ``(C,)``."""
        indices = [int(predicted)] if predicted.ndim == 0 else predicted.nonzero()[:, 0].tolist()
        return [self.class_names[index] for index in indices]


def finite(value: Any) -> float | None:
    """``value`` as a number, or None for NaN and infinity, which JSON lacks."""
    return float(value) if math.isfinite(value) else None
