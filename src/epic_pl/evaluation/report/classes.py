"""Scores of each class.

Shape legend: N samples, C classes.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from epic_pl.evaluation.evaluator import Evaluator
from epic_pl.evaluation.report.outputs import SplitOutputs


def confusion_counts(evaluator: Evaluator, outputs: SplitOutputs) -> Tensor:
    """Confusion matrix ``(C, C)`` of a multiclass task; rows are the truth."""
    size = len(evaluator.class_names)
    cells = outputs.labels.long() * size + evaluator.predict(outputs.logits)
    return torch.bincount(cells, minlength=size * size).view(size, size)


def class_table(evaluator: Evaluator, outputs: SplitOutputs) -> list[dict[str, Any]]:
    """Support, precision, recall and F1 of each class, the lowest F1 first, unseen classes last.

    A ratio with denominator 0 counts as 0.
    """
    truth, predicted = outputs.labels.long(), evaluator.predict(outputs.logits)
    if evaluator.task == "multiclass":
        size = len(evaluator.class_names)
        truth, predicted = F.one_hot(truth, size), F.one_hot(predicted, size)  # (N, C)
    counts = [each.sum(dim=0).tolist() for each in (truth * predicted, truth, predicted)]
    thresholds = evaluator.postprocessor.thresholds
    rows = []
    for index, (name, hits, support, assigned) in enumerate(
        zip(evaluator.class_names, *counts, strict=True)
    ):
        row: dict[str, Any] = {
            "class": name,
            "support": support,
            "precision": hits / max(assigned, 1),
            "recall": hits / max(support, 1),
            "f1": 2 * hits / max(support + assigned, 1),
        }
        if thresholds is not None:
            row["threshold"] = float(thresholds[index])
        rows.append(row)
    return sorted(rows, key=lambda row: (row["support"] == 0, row["f1"], -row["support"]))
