"""The metrics of each task.

Shape legend: B batch, N samples, C classes.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    BinaryF1Score,
    MulticlassAccuracy,
    MulticlassF1Score,
    MultilabelF1Score,
)

from epic_pl.module.postprocess import (
    Postprocessor,
    assign_labels,
    calibration_error,
    reliability_bins,
)
from epic_pl.module.ranking import RANKING, ranking_scores
from epic_pl.utils.types import Task

_SHARES = ("accuracy", "f1", "auroc", "map", "ece")
_AT_A_TIME = 1024  # samples; for a whole split at once top-5 accuracy needs several (N, C) arrays


class SamplesF1(BinaryF1Score):
    """F1 of each sample's set of labels ``(B, C)``, then the mean over samples.

    Example:
        >>> SamplesF1()(torch.tensor([[1, 0, 1], [1, 1, 0]]), torch.tensor([[1, 0, 1], [1, 0, 0]]))
        tensor(0.8333)
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(multidim_average="samplewise", **options)

    def compute(self) -> Tensor:
        """The mean F1 of all samples, a scalar."""
        return super().compute().mean()


class MacroF1(MulticlassF1Score):
    """Mean F1 of the classes, without torchmetrics' array ``(C, C)`` for each batch.

    Example:
        >>> MacroF1(num_classes=2)(torch.eye(2)[[0, 1, 1]], torch.tensor([0, 1, 0]))
        tensor(0.6667)
    """

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Update with a batch's probabilities ``(B, C)`` and labels ``(B,)``."""
        predicted = preds.argmax(dim=1)
        parts = (target[target == predicted], predicted, target)
        hits, given, true = (part.bincount(minlength=preds.shape[1]) for part in parts)
        # the public update makes that array
        self._update_state(hits, given - hits, len(target) - given - true + hits, true - hits)


def build_metrics(
    task: Task, num_classes: int, prefix: str = "", postfix: str = "", **options: Any
) -> MetricCollection:
    """The metrics of a task, named ``prefix + name + postfix``, for :func:`metric_inputs`.

    Multiclass: accuracy (top 1), accuracy_top5 with more than five classes, and f1_macro.
    Multilabel: f1_micro, f1_macro, f1_samples, f1_weighted. Their states do not grow with the
    number of samples, as that of a ranking would. torchmetrics' compute groups are off, since they
    permanently merge metrics whose states are equal after the first batch. ``options`` are those of
    every torchmetrics ``Metric``.

    Example:
        >>> list(build_metrics("multilabel", num_classes=3, prefix="val/"))
        ['val/f1_macro', 'val/f1_micro', 'val/f1_samples', 'val/f1_weighted']
    """
    metrics: dict[str, Metric | MetricCollection]
    if task == "multilabel":
        metrics = {
            "f1_micro": MultilabelF1Score(num_classes, average="micro", **options),
            "f1_macro": MultilabelF1Score(num_classes, average="macro", **options),
            "f1_samples": SamplesF1(**options),
            "f1_weighted": MultilabelF1Score(num_classes, average="weighted", **options),
        }
    else:
        metrics = {
            "accuracy": MulticlassAccuracy(num_classes, average="micro", **options),
            "f1_macro": MacroF1(num_classes, average="macro", **options),
        }
        if num_classes > 5:
            top5 = MulticlassAccuracy(num_classes, top_k=5, average="micro", **options)
            metrics["accuracy_top5"] = top5
    return MetricCollection(metrics, prefix=prefix, postfix=postfix, compute_groups=False)


def metric_inputs(task: Task, probabilities: Tensor, thresholds: Tensor | float = 0.5) -> Tensor:
    """Inputs of metrics: multiclass probabilities ``(N, C)``, or multilabel 0/1 ``(N, C)``."""
    multilabel = task == "multilabel"
    return assign_labels(probabilities, thresholds).int() if multilabel else probabilities


def compute_metrics(
    task: Task, probabilities: Tensor, labels: Tensor, thresholds: Tensor | None = None
) -> dict[str, float]:
    """The metrics of samples that are gathered from all ranks; NaN without samples.

    They are those of :func:`build_metrics`, and without ``thresholds`` also that of the ranking:
    "auroc" or "map" (:func:`~epic_pl.module.ranking.ranking_scores`).

    Args:
        task: multiclass or multilabel.
        probabilities: ``(N, C)``.
        labels: class indices ``(N,)``, or 0/1 ``(N, C)`` for multilabel.
        thresholds: multilabel: ``(C,)``, those of the model. Names of metrics at them end in
            ``_tuned``; None is 0.5 for all labels.

    Example:
        >>> probabilities = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5]])
        >>> compute_metrics("multiclass", probabilities, labels=torch.tensor([0, 1]))["accuracy"]
        0.5
    """
    postfix = "" if thresholds is None else "_tuned"
    metrics = build_metrics(task, probabilities.shape[1], "", postfix, sync_on_compute=False)
    ranking = {} if postfix else {RANKING[task]: float(ranking_scores(task, probabilities, labels))}
    if not len(labels):
        return dict.fromkeys(map(str, metrics), math.nan) | ranking
    predicted = metric_inputs(task, probabilities, 0.5 if thresholds is None else thresholds)
    blocks = (torch.split(values, _AT_A_TIME) for values in (predicted, labels.int()))
    for block in zip(*blocks, strict=True):
        metrics.update(*block)
    return {str(name): float(value) for name, value in metrics.compute().items()} | ranking


def decided_metrics(post: Postprocessor, probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """The metrics of calibrated probabilities on the CPU, multilabel also at fitted thresholds."""
    scores = compute_metrics(post.task, probabilities, labels)
    if post.thresholds is not None:
        scores |= compute_metrics(post.task, probabilities, labels, post.thresholds)
    return scores


def final_metrics(post: Postprocessor, logits: Tensor, labels: Tensor) -> dict[str, float]:
    """The metrics of a tested model on the CPU, also at its thresholds, and calibration errors.

    Without samples there are none.
    """
    probabilities = post(logits)
    scores = decided_metrics(post, probabilities, labels)
    for name, given in (("ece", probabilities), ("ece_uncalibrated", post.uncalibrated(logits))):
        scores[name] = calibration_error(reliability_bins(given, labels))
    return scores


def metric_text(name: str, value: float) -> str:
    """A metric as it is shown to people: in percent, or a loss with three decimals.

    Example:
        >>> metric_text("val/accuracy", 0.51666), metric_text("val/loss", 1.5)
        ('51.7%', '1.500')
    """
    return f"{value:{'.1%' if name.rpartition('/')[2].startswith(_SHARES) else '.3f'}}"


def main_metric_sums(predicted: Tensor, labels: Tensor) -> Tensor:
    """Numerator and denominator of accuracy, or of micro F1, for each sample: ``(N, 2)`` int64.

    For class indices ``(N,)`` these are 1 or 0 (equal or not), and 1. For 0/1 ``(N, C)`` these are
    twice the number of labels in both, and the number of labels in one plus that in the other.
    """
    predicted, labels = predicted.long(), labels.long()
    if labels.ndim == 1:
        return torch.stack([(predicted == labels).long(), torch.ones_like(labels)], dim=1)
    hits = 2 * (predicted * labels).sum(dim=1)
    return torch.stack([hits, predicted.sum(dim=1) + labels.sum(dim=1)], dim=1)
