"""Calibrated probabilities and decision thresholds, and their fitting on validation.

Shape legend: B batch, N samples, C classes.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from epic_pl.nn.temperature import (
    HIGHEST,
    LOWEST,
    bias_evidence,
    fit_bias,
    fit_temperature,
)
from epic_pl.utils.errors import ConfigError
from epic_pl.utils.types import Task

BINS = 15
# 0, 0.005, ... 1; finer steps would fit the noise of a few thousand validation rows
_THRESHOLDS = 201
# log of the Bayes factor from which a bias is kept: noise reaches it once in twenty times at most
_STRONG = math.log(20)
# bounds of the product of two fitted temperatures, with some tolerance for rounding to bfloat16
_COLDEST, _HOTTEST = 0.99 * LOWEST**2, 1.01 * HIGHEST**2
# positives that move a threshold half of the way, see fit_thresholds: chosen on icons, on films and
# on drawn logits that are calibrated or not
_FEW, _MANY = 10, 300
ENOUGH_ROWS = 100
"""Fewer validation rows are too few to calibrate: the temperature varies by more than an eighth."""
Array = TypeVar("Array", Tensor, npt.NDArray[Any])


def assign_labels(probabilities: Array, thresholds: Array | float) -> Array:
    """Labels that are assigned to each sample of a multilabel task, ``(N, C)`` bool.

    All multilabel predictions and scores use this function.

    Args:
        probabilities: ``(N, C)``, calibrated unless all thresholds are 0.5.
        thresholds: the least probability of each label ``(C,)``, or of all.

    Example:
        >>> assign_labels(torch.tensor([[0.9, 0.4]]), thresholds=torch.tensor([0.6, 0.4]))
        tensor([[True, True]])
    """
    return probabilities >= thresholds


def check_calibration(temperature: float, thresholds: Sequence[float] | None) -> None:
    """Check what a file says of a postprocessor.

    Args:
        temperature: number that divides the logits.
        thresholds: the minimum probability of each label; None for multiclass.

    Raises:
        ConfigError: if :meth:`Postprocessor.fit` cannot have found these values.
    """
    if not _COLDEST <= temperature <= _HOTTEST:
        problem = f"temperature is {temperature}, not between {_COLDEST:.3f} and {_HOTTEST:.0f}"
        raise ConfigError(f"{problem}: answers would be inverted, all equal, or no numbers.")
    if not all(0 <= value <= 1 for value in thresholds or ()):
        raise ConfigError(f"thresholds is {thresholds!r:.60}, but holds probabilities.")


class Postprocessor(nn.Module):
    """Maps logits to probabilities and predictions, calibrated on validation.

    Args:
        task: "multiclass" (softmax) or "multilabel" (a sigmoid for each label).
        num_classes: number of classes C.

    Attributes:
        temperature: scalar that divides the logits.
        bias: multiclass: ``(C,)``, added to the divided logits; None for multilabel.
        thresholds: multilabel: ``(C,)``, the minimum probability at which each label is assigned;
            None for multiclass.
    """

    temperature: Tensor
    bias: Tensor | None
    thresholds: Tensor | None

    def __init__(self, task: Task, num_classes: int) -> None:
        super().__init__()
        self.task: Task = task
        self.register_buffer("temperature", torch.ones(()))
        multilabel = task == "multilabel"
        self.register_buffer("bias", None if multilabel else torch.zeros(num_classes))
        self.register_buffer("thresholds", torch.full((num_classes,), 0.5) if multilabel else None)

    def forward(self, logits: Tensor) -> Tensor:
        """Calibrated probabilities ``(B, C)`` float32 of logits ``(B, C)``."""
        return self.uncalibrated(self.calibrated(logits))

    def calibrated(self, logits: Tensor) -> Tensor:
        """Calibrated logits ``(B, C)`` float32."""
        scaled = logits.float() / self.temperature
        return scaled if self.bias is None else scaled + self.bias

    def uncalibrated(self, logits: Tensor) -> Tensor:
        """Probabilities ``(B, C)`` float32 at temperature 1."""
        logits = logits.float()
        return logits.sigmoid() if self.task == "multilabel" else logits.softmax(dim=-1)

    def predict(self, probabilities: Tensor) -> Tensor:
        """Class indices ``(B,)``, or 0/1 ``(B, C)`` for multilabel, of calibrated probabilities."""
        if self.thresholds is None:
            return probabilities.argmax(dim=-1)
        return assign_labels(probabilities, self.thresholds.to(probabilities)).long()

    def threshold_array(self) -> npt.NDArray[np.float32] | None:
        """``thresholds (C,)`` as numpy's, for tables and services; None for multiclass."""
        return None if self.thresholds is None else self.thresholds.float().cpu().numpy()

    def on_cpu(self) -> "Postprocessor":
        """A float32 copy on the CPU, for :class:`~epic_pl.module.outputs.SplitOutputs`."""
        return deepcopy(self).float().cpu()

    def reset(self) -> None:
        """Set temperature 1, bias 0 and thresholds 0.5, as before fitting."""
        self.temperature.fill_(1)
        if self.bias is not None:
            self.bias.zero_()
        if self.thresholds is not None:
            self.thresholds.fill_(0.5)

    @torch.no_grad()
    def fit(self, logits: Tensor, labels: Tensor) -> None:
        """Fit temperature, bias and thresholds to logits ``(N, C)`` and labels on the CPU."""
        self.temperature.fill_(fit_temperature(logits, labels, self.task))
        if self.bias is not None:
            scaled = logits.float() / self.temperature.cpu()
            bias = fit_bias(scaled, labels)
            strong = bias_evidence(scaled, labels, bias) > _STRONG  # else it is noise of these rows
            self.bias.copy_(bias * strong)
            # without the bias, the temperature was also that of its errors
            again = fit_temperature(self.on_cpu().calibrated(logits), labels, self.task)
            self.temperature.mul_(again)
            self.bias.div_(again)
        if self.thresholds is not None and len(logits):
            self.thresholds.copy_(fit_thresholds(self.on_cpu()(logits), labels))


def fit_thresholds(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Thresholds ``(C,)`` for a high F1, of which each generalises to other rows.

    Calibrated probabilities have their best threshold at half of the F1 that it gives (Lipton et
    al., arXiv 1402.1892). The threshold with the best F1 needs no calibration, but depends on
    single rows. So 0.5 moves to half of the best micro F1, that to the threshold with the best
    micro F1, and that to the threshold with each label's best F1: first by ``n / (n + 10)`` of the
    way, for n positives, then each time by ``n / (n + 300)``. A label without any has the common
    threshold, and all have 0.5 without a positive.

    Args:
        probabilities: ``(N, C)``.
        labels: 0/1 ``(N, C)``.
    """
    each = _count_reached(probabilities.cpu().float(), labels.cpu())
    common = each.sum(dim=1, keepdim=True)
    hits, predicted, positives = common.unbind()
    half = (hits / (predicted + positives).clamp(min=1)).amax()
    start = 0.5 + (half - 0.5) * positives[:, 0] / (positives[:, 0] + _FEW)
    return _moved(each, _moved(common, start)).float()


def _moved(counts: Tensor, start: Tensor) -> Tensor:
    """Thresholds ``(C,)`` between ``start`` and the best of each label, of counts ``(3, C, T)``.

    Among equally good thresholds the best is the one nearest to ``start``.
    """
    hits, predicted, positives = counts.unbind()
    f1, tried = 2 * hits / (predicted + positives).clamp(min=1), torch.linspace(0, 1, _THRESHOLDS)
    best = f1 == f1.amax(dim=1, keepdim=True)
    distance = (tried - start[:, None]).abs().expand_as(f1).masked_fill(~best, 2.0)
    share = positives[:, 0] / (positives[:, 0] + _MANY)
    return start + (tried[distance.argmin(dim=1)] - start) * share


def _count_reached(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Numbers of hits, assigned labels and positives at each tried threshold, ``(3, C, T)``."""
    truth, classes = labels.double(), labels.shape[1]
    tried = torch.linspace(0, 1, _THRESHOLDS)
    highest = torch.bucketize(probabilities.contiguous(), tried, right=True) - 1  # reached
    cells = (highest + _THRESHOLDS * torch.arange(classes)).flatten()

    def count(weights: Tensor) -> Tensor:  # sum over rows that reach each threshold, (C, T)
        exact = torch.bincount(cells, weights.flatten(), minlength=classes * _THRESHOLDS)
        return exact.view(classes, _THRESHOLDS).flip(1).cumsum(1).flip(1)

    positives = truth.sum(dim=0)[:, None].expand(-1, _THRESHOLDS)
    return torch.stack([count(truth), count(torch.ones_like(truth)), positives])


def answers(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Confidence of each answer, and whether it is correct (0 or 1), each ``(M,)`` float64.

    A multiclass sample has one answer, its most probable class; a multilabel sample has C answers.

    Args:
        probabilities: ``(N, C)``.
        labels: class indices ``(N,)``, or 0/1 ``(N, C)`` for multilabel.
    """
    if labels.ndim == 2:
        return probabilities.double().flatten(), labels.double().flatten()
    confidence, predicted = probabilities.max(dim=1)
    return confidence.double(), (predicted == labels).double()


def reliability_bins(probabilities: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """Number of answers, mean confidence and share of correct answers in each confidence bin."""
    confidence, right = answers(probabilities, labels)
    index = _bins(confidence)
    counts, sums, hits = (
        index.bincount(weights, minlength=BINS).tolist() for weights in (None, confidence, right)
    )
    return [
        {
            "from": number / BINS,
            "to": (number + 1) / BINS,
            "samples": count,
            "probability": sums[number] / count if count else None,
            "accuracy": hits[number] / count if count else None,
        }
        for number, count in enumerate(counts)
    ]


def calibration_error(bins: list[dict[str, Any]]) -> float:
    """Expected calibration error of :func:`reliability_bins`; NaN of none.

    Example:
        >>> probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]])
        >>> round(calibration_error(reliability_bins(probabilities, torch.tensor([0, 1, 1]))), 4)
        0.3333
    """
    filled = [row for row in bins if row["samples"]]
    gaps = (row["samples"] * abs(row["probability"] - row["accuracy"]) for row in filled)
    return float(sum(gaps) / sum(row["samples"] for row in filled)) if filled else math.nan


def _bins(confidence: Tensor) -> Tensor:
    """Index of the bin of each confidence, among :data:`BINS` equal ones."""
    return (confidence * BINS).long().clamp(0, BINS - 1)


@torch.no_grad()
def error_by_chance(confidence: Tensor, draws: int = 500) -> tuple[float, float, float]:
    """Calibration error of perfectly calibrated predictions, by simulation.

    With few samples even perfectly calibrated predictions have an error above zero, so a model's
    error that is not larger is no evidence of miscalibration. The simulation draws whether each
    answer is correct from its confidence.

    Args:
        confidence: ``(M,)`` float64 of :func:`answers`, on the CPU.
        draws: number of simulations.

    Returns:
        Mean, 5th and 95th percentile of the error.
    """
    bins = _bins(confidence)
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(draws):
        right = (torch.rand(len(bins), generator=generator) < confidence).double()
        errors.append(bins.bincount(confidence - right, minlength=BINS).abs().sum() / len(bins))
    error = torch.stack(errors)
    low, high = error.quantile(torch.tensor([0.05, 0.95], dtype=torch.double)).tolist()
    return float(error.mean()), low, high
