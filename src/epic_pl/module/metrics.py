"""The metrics of each task.

Shape legend: B batch, C classes.
"""

from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    BinaryAUROC,
    BinaryF1Score,
    MulticlassAccuracy,
    MulticlassF1Score,
    MultilabelF1Score,
)

from epic_pl.types import Task


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
        """Update with a batch's probabilities ``(B, 2)`` and labels ``(B,)``."""
        super().update(preds[:, 1], target)


class MacroF1(MulticlassF1Score):
    """Mean F1 of the classes, without torchmetrics' array ``(C, C)`` for each batch."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Update with a batch's probabilities ``(B, C)`` and labels ``(B,)``."""
        predicted = preds.argmax(dim=1)
        parts = (target[target == predicted], predicted, target)
        hits, given, true = (part.bincount(minlength=preds.shape[1]) for part in parts)
        self._update_state(hits, given - hits, len(target) - given - true + hits, true - hits)


def build_metrics(
    task: Task, num_classes: int, prefix: str, postfix: str | None = None
) -> MetricCollection:
    """The metrics of a task, named ``prefix`` + name + ``postfix``.

    Multiclass: accuracy (top 1), accuracy_top5 with more than five classes, f1_macro, and auroc
    with two classes. Multilabel, at threshold 0.5 (or for 0/1 predictions): f1_micro, f1_macro,
    f1_samples, f1_weighted. torchmetrics' compute groups are off, since they permanently merge
    metrics whose states are equal after the first batch.
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
            compute_groups=False,
        )
    metrics: dict[str, Metric | MetricCollection] = {
        "accuracy": MulticlassAccuracy(num_classes, average="micro"),
        "f1_macro": MacroF1(num_classes, average="macro"),
    }
    if num_classes > 5:
        metrics["accuracy_top5"] = MulticlassAccuracy(num_classes, top_k=5, average="micro")
    if num_classes == 2:
        metrics["auroc"] = SecondClassAUROC()
    return MetricCollection(metrics, prefix=prefix, postfix=postfix, compute_groups=False)
