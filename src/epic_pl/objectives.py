"""What each task optimises and measures.

Shape legend: B batch, C classes.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    BinaryF1Score,
    MulticlassAccuracy,
    MulticlassF1Score,
    MultilabelF1Score,
)

Task = Literal["multiclass", "multilabel"]


class Objective(nn.Module):
    """The loss of a task and how its logits become probabilities.

    Args:
        task: "multiclass" (one class a sample) or "multilabel" (any number).
        label_smoothing: of the cross-entropy; multiclass only.
        pos_weight: ``(C,)`` weights of the positives; multilabel only.
    """

    pos_weight: Tensor | None

    def __init__(
        self, task: Task, label_smoothing: float = 0.0, pos_weight: list[float] | None = None
    ) -> None:
        super().__init__()
        self.task = task
        self.label_smoothing = label_smoothing
        weight = None if pos_weight is None else torch.tensor(pos_weight)
        self.register_buffer("pos_weight", weight, persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of logits ``(B, C)`` and labels ``(B,)`` or, multilabel, ``(B, C)``."""
        if self.task == "multilabel":
            return F.binary_cross_entropy_with_logits(
                logits, labels.to(logits.dtype), pos_weight=self.pos_weight
            )
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def probabilities(self, logits: Tensor) -> Tensor:
        """``(B, C)`` float32: softmax, or a sigmoid for each label."""
        logits = logits.float()
        return logits.sigmoid() if self.task == "multilabel" else logits.softmax(dim=-1)


class SamplesF1(BinaryF1Score):
    """F1 of each sample's set of labels ``(B, C)``, then the mean over samples."""

    def __init__(self) -> None:
        super().__init__(multidim_average="samplewise")

    def compute(self) -> Tensor:
        """The mean, a scalar."""
        return super().compute().mean()


def build_metrics(task: Task, num_classes: int, prefix: str) -> MetricCollection:
    """The metrics of a task, named ``prefix`` + name.

    Multiclass: accuracy (top 1), accuracy_top5 where there are more than five classes, f1_macro.
    Multilabel, at threshold 0.5: f1_micro, f1_macro, f1_samples, f1_weighted.
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
        )
    metrics: dict[str, Metric | MetricCollection] = {
        "accuracy": MulticlassAccuracy(num_classes, average="micro"),
        "f1_macro": MulticlassF1Score(num_classes, average="macro"),
    }
    if num_classes > 5:
        metrics["accuracy_top5"] = MulticlassAccuracy(num_classes, top_k=5, average="micro")
    return MetricCollection(metrics, prefix=prefix)
