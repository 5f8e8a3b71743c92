"""What each task measures, and the thresholds that are tuned on validation.

Shape legend: B batch, C classes, T thresholds tried.
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    BinaryAUROC,
    BinaryF1Score,
    MulticlassAccuracy,
    MulticlassF1Score,
    MultilabelF1Score,
    MultilabelPrecisionRecallCurve,
)

from epic_pl.types import Task

# 0, 0.005, ... 1: finer ones would follow the noise of a few thousand validation rows
_TRIED = 201


class SamplesF1(BinaryF1Score):
    """F1 of each sample's set of labels ``(B, C)``, then the mean over samples."""

    def __init__(self) -> None:
        super().__init__(multidim_average="samplewise")

    def compute(self) -> Tensor:
        """The mean, a scalar."""
        return super().compute().mean()


class SecondClassAUROC(BinaryAUROC):
    """Area under the ROC curve of the second of two classes, from probabilities ``(B, 2)``."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Take in a batch with labels ``(B,)``."""
        super().update(preds[:, 1], target)


class F1Thresholds(MultilabelPrecisionRecallCurve):
    """For each label the threshold at which its F1 is highest.

    Counts over a grid of thresholds are kept, not samples: memory does not grow with the data, and
    ranks add theirs up.

    Args:
        num_labels: C.
    """

    def __init__(self, num_labels: int) -> None:
        super().__init__(num_labels, thresholds=_TRIED)

    def compute(self) -> Any:
        """Thresholds ``(C,)``.

        Of several that are equally good the one nearest to 0.5, which a label without a positive
        keeps therefore.
        """
        own: Any = self.thresholds  # (T,)
        tried = own.cpu()  # not every accelerator knows float64
        counts = self.confmat.cpu().double()  # (T, C, 2, 2), truth then prediction
        true, false, missed = counts[..., 1, 1], counts[..., 0, 1], counts[..., 1, 0]  # (T, C)
        f1 = 2 * true / (2 * true + false + missed).clamp(min=1)
        distance = (tried.double() - 0.5).abs()[:, None]  # (T, 1)
        best = f1 >= f1.amax(dim=0) - 1e-12
        chosen = distance.expand_as(f1).masked_fill(~best, 2.0).argmin(dim=0)
        found: Tensor = tried[chosen].to(own)
        return found


def build_metrics(
    task: Task, num_classes: int, prefix: str, postfix: str | None = None
) -> MetricCollection:
    """The metrics of a task, named ``prefix`` + name + ``postfix``.

    Multiclass: accuracy (top 1), accuracy_top5 where there are more than five classes, f1_macro,
    and auroc where there are two classes. Multilabel, at threshold 0.5 (or of given 0/1
    predictions): f1_micro, f1_macro, f1_samples, f1_weighted.
    """
    if task == "multilabel":
        labels = num_classes
        return MetricCollection(
            {
                "f1_micro": MultilabelF1Score(labels, average="micro"),
                "f1_macro": MultilabelF1Score(labels, average="macro"),
                "f1_samples": SamplesF1(),
                "f1_weighted": MultilabelF1Score(labels, average="weighted"),
            },
            prefix=prefix,
            postfix=postfix,
        )
    metrics: dict[str, Metric | MetricCollection] = {
        "accuracy": MulticlassAccuracy(num_classes, average="micro"),
        "f1_macro": MulticlassF1Score(num_classes, average="macro"),
    }
    if num_classes > 5:
        metrics["accuracy_top5"] = MulticlassAccuracy(num_classes, top_k=5, average="micro")
    if num_classes == 2:
        metrics["auroc"] = SecondClassAUROC()
    return MetricCollection(metrics, prefix=prefix, postfix=postfix)


def at_thresholds(probabilities: Tensor, thresholds: Tensor) -> Tensor:
    """0/1 predictions ``(B, C)`` of labels at or above their threshold ``(C,)``."""
    return (probabilities >= thresholds).to(torch.int64)
