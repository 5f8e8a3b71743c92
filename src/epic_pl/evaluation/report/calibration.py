"""Calibration: how well probabilities agree with the share of right answers.

Shape legend: N samples, M answers, C classes.
"""

from typing import Any

import torch
from torch import Tensor

from epic_pl.evaluation.evaluator import Evaluator
from epic_pl.evaluation.report.outputs import SplitOutputs
from epic_pl.module.postprocess import BINS, error_by_chance


def calibration_table(evaluator: Evaluator, outputs: SplitOutputs) -> dict[str, Any]:
    """Temperature, and calibration error and reliability bins before and after it.

    ``ece_by_chance`` is the error that perfectly calibrated answers would show on so many samples.
    """
    postprocessor, logits = evaluator.postprocessor, outputs.logits
    table: dict[str, Any] = {"temperature": float(postprocessor.temperature)}
    for suffix, probabilities in (
        ("_uncalibrated", postprocessor.uncalibrated(logits)),
        ("", evaluator.probabilities(logits)),
    ):
        confidence, right = _answers(evaluator, probabilities, outputs.labels)
        bins = _bins(confidence, right)
        table[f"ece{suffix}"] = sum(
            row["samples"] / len(confidence) * abs(row["probability"] - row["accuracy"])
            for row in bins
            if row["samples"]
        )
        table[f"bins{suffix}"] = bins
    chance = error_by_chance(confidence)
    table["ece_by_chance"] = dict(zip(("mean", "low", "high"), chance, strict=True))
    return table


def _answers(evaluator: Evaluator, probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Probability of each answer and whether it is right, both ``(M,)`` float64.

    Multiclass: the most probable class. Multilabel: every pair of sample and class.
    """
    if evaluator.task == "multilabel":
        return probabilities.double().flatten(), labels.double().flatten()
    confidence, predicted = probabilities.max(dim=1)
    return confidence.double(), (predicted == labels).double()


def _bins(confidence: Tensor, right: Tensor) -> list[dict[str, Any]]:
    """Number of answers, mean probability and share of right answers in each bin."""
    index = (confidence * BINS).long().clamp(max=BINS - 1)
    counts, sums, hits = (
        torch.bincount(index, weights, minlength=BINS).tolist()
        for weights in (None, confidence, right)
    )
    return [
        {
            "from": number / BINS,
            "to": (number + 1) / BINS,
            "samples": count,
            "probability": total / count if count else None,
            "accuracy": hit / count if count else None,
        }
        for number, (count, total, hit) in enumerate(zip(counts, sums, hits, strict=True))
    ]
