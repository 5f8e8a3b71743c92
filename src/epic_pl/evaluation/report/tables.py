"""Numbers of each class, and how far probabilities can be believed.

Shape legend: N samples, C classes.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from epic_pl.evaluation.report.outcome import Judge, Outcome, number
from epic_pl.module.postprocess import BINS, calibration_error, error_by_chance


def confusion_counts(judge: Judge, outcome: Outcome) -> Tensor:
    """``(C, C)``, rows the truth; multiclass."""
    size = len(judge.class_names)
    cells = outcome.labels.long() * size + judge.assigned(outcome.logits)
    return torch.bincount(cells, minlength=size * size).view(size, size)


def class_table(judge: Judge, outcome: Outcome) -> list[dict[str, Any]]:
    """Support, precision, recall and F1 of each class, the lowest F1 first, unseen ones last.

    A share of nothing counts as 0.
    """
    truth, given = (_indicators(judge, x) for x in (outcome.labels, judge.assigned(outcome.logits)))
    hits = (truth * given).sum(dim=0)  # (C,)
    support, assigned = truth.sum(dim=0), given.sum(dim=0)
    rows = []
    for index, name in enumerate(judge.class_names):
        h, s, a = (int(counts[index]) for counts in (hits, support, assigned))
        row: dict[str, Any] = {
            "class": name,
            "support": s,
            "precision": h / max(a, 1),
            "recall": h / max(s, 1),
            "f1": 2 * h / max(s + a, 1),
        }
        if judge.thresholds is not None:
            row["threshold"] = float(judge.thresholds[index])
        rows.append(row)
    return sorted(rows, key=lambda row: (row["support"] == 0, row["f1"], -row["support"]))


def _indicators(judge: Judge, classes: Tensor) -> Tensor:
    """``(N, C)`` 0/1."""
    if judge.task == "multilabel":
        return classes.long()
    return F.one_hot(classes.long(), len(judge.class_names))


def calibration_table(judge: Judge, outcome: Outcome) -> dict[str, Any]:
    """What validation fitted, and before (uncalibrated) and after: calibration error and its bins.

    ``ece_by_chance`` is what answers that are right as often as they say would show after.
    """
    found: dict[str, Any] = {"temperature": judge.temperature}
    for suffix, calibrated in (("_uncalibrated", False), ("", True)):
        probabilities = judge.probabilities(outcome.logits, calibrated)
        error = calibration_error(judge.task, len(judge.class_names))
        error.update(probabilities, outcome.labels.int())
        found[f"ece{suffix}"] = number(error.compute())
        found[f"bins{suffix}"] = _bins(judge, probabilities, outcome.labels)
    chance = error_by_chance(_answers(judge, probabilities, outcome.labels)[0])
    found["ece_by_chance"] = dict(zip(("mean", "low", "high"), chance, strict=True))
    return found


def _answers(judge: Judge, probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of each answer its probability and whether it is right, both ``(M,)``.

    Multiclass: the most probable class; multilabel: every pair of sample and label.
    """
    if judge.task == "multilabel":
        return probabilities.flatten(), labels.flatten() > 0
    sure, best = probabilities.max(dim=1)
    return sure, best == labels


def _bins(judge: Judge, probabilities: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """Samples, mean probability and share of right answers between two probabilities."""
    sure, right = _answers(judge, probabilities, labels)
    at = torch.bucketize(sure, torch.linspace(0, 1, BINS + 1)[1:-1], right=True)
    bins = []
    for index in range(BINS):
        inside = at == index
        count = int(inside.sum())
        bins.append(
            {
                "from": index / BINS,
                "to": (index + 1) / BINS,
                "samples": count,
                "probability": number(sure[inside].mean()) if count else None,
                "accuracy": number(right[inside].float().mean()) if count else None,
            }
        )
    return bins
