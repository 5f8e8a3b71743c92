"""The main score of a report with its interval, also for the most confident answers alone.

Shape legend: N samples.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from epic_pl.module.evaluator import Evaluator
from epic_pl.module.metrics import main_metric_sums
from epic_pl.module.outputs import SplitOutputs
from epic_pl.module.ranking import RANKING, ranking_scores

Table = list[dict[str, Any]]
Floats = npt.NDArray[np.float64]

_RESAMPLES = 2000
_RANKED = 1000  # resamples of a ranking, which take longer
_Z = 1.959964  # 97.5th percentile of the normal distribution
_LABELS = {
    "accuracy_top5": "top-5 accuracy",
    "auroc": "AUROC",
    "ece": "calibration error",
    "f1": "F1",
    "f1_macro": "macro F1",
    "f1_micro": "micro F1",
    "f1_samples": "F1 per sample",
    "f1_weighted": "weighted F1",
    "loss": "log loss",
    "map": "mean average precision",
    "support": "samples",
}


def label(name: str, multilabel: bool = False) -> str:
    """Name a column or logged metric in words; multilabel F1 scores say their threshold."""
    base, tuned, _ = name.removeprefix("test/").partition("_tuned")
    words = _LABELS.get(base, base.replace("accuracy_", "accuracy, ").replace("_", " "))
    if tuned:
        return f"{words} at the model's thresholds"
    # a multiclass task has only macro F1
    multilabel = base.startswith("f1_") and (multilabel or base != "f1_macro")
    return f"{words} at 0.5" if multilabel else words


def headline(evaluator: Evaluator, outputs: SplitOutputs) -> dict[str, Any]:
    """The main score, its 95% interval, which assumes independent samples, and that by chance.

    It is accuracy with Wilson's interval, or for multilabel tasks micro F1 at the model's
    thresholds with percentiles of a bootstrap. By chance is the best score of one answer for all.
    """
    sums = main_metric_sums(evaluator.predict(outputs.logits), outputs.labels)
    hits, counted = sums.double().T  # each (N,)
    value = float(hits.sum() / counted.sum().clamp(min=1))
    if evaluator.task == "multiclass":
        name, (low, high) = "accuracy", wilson_interval(int(hits.sum()), len(hits))
    else:
        _, *draws = resampled_scores(sums.double().numpy())
        name, (low, high) = "f1_micro_tuned", np.percentile(draws, [2.5, 97.5]).tolist()
    chance = _chance(outputs.labels)
    return {"score": name, "value": value, "low": low, "high": high, "chance": chance}


def ranking_interval(evaluator: Evaluator, outputs: SplitOutputs) -> dict[str, Any] | None:
    """The metric that needs no threshold, with the 95% interval of a bootstrap over samples.

    None where it is not defined, as for samples of one class.
    """
    probabilities, values = evaluator.probabilities(outputs.logits), []
    for weights in _resamples(len(outputs.labels), _RANKED):
        times = torch.from_numpy(weights.T)
        values.append(ranking_scores(evaluator.task, probabilities, outputs.labels, times))
    value, *draws = torch.cat(values).tolist()
    if not math.isfinite(value):
        return None
    low, high = np.nanpercentile(draws, [2.5, 97.5]).tolist()
    return {"score": RANKING[evaluator.task], "value": value, "low": low, "high": high}


def resampled_scores(sums: Floats) -> Floats:
    """Scores ``(..., 1 + D)`` of sums ``(..., N, 2)``: of all samples, then of D resamples."""
    totals = [weights @ sums for weights in _resamples(sums.shape[-2], _RESAMPLES)]
    hits, counted = np.moveaxis(np.concatenate(totals, axis=-2), -1, 0)
    return np.asarray(hits / counted.clip(min=1))


def _resamples(count: int, draws: int) -> Iterator[Floats]:
    """How often each of N samples counts, ``(D, N)``: once first, then as a bootstrap draws it."""
    yield np.ones((1, count))
    rng = np.random.default_rng(0)
    for _ in range(draws // 100):
        yield rng.multinomial(count, [1 / count] * count, size=100).astype(np.float64)


def _chance(labels: Tensor) -> float:
    """Share of the most frequent class, or micro F1 of the k most frequent labels, with best k."""
    if labels.ndim == 1:
        return float(labels.bincount().max() / len(labels))
    frequencies = labels.double().sum(dim=0).sort(descending=True).values
    assigned = len(labels) * torch.arange(1, len(frequencies) + 1)
    return float((2 * frequencies.cumsum(dim=0) / (assigned + frequencies.sum())).max())


def wilson_interval(right: float, count: float) -> tuple[float, float]:
    """95% interval of a share (E. B. Wilson, J. of the American Statistical Association, 1927)."""
    middle = (right + _Z**2 / 2) / (count + _Z**2)
    half = _Z * math.sqrt(right * (count - right) / count + _Z**2 / 4) / (count + _Z**2)
    return max(0.0, middle - half), min(1.0, middle + half)


def coverage_table(evaluator: Evaluator, outputs: SplitOutputs) -> Table:
    """Main score of the 5 to 100% of the samples that have the most confident answers.

    ``probability`` is the lowest probability among them: that of the class or, in a multilabel
    task, that of all labels being correct if they were independent.
    """
    predicted = evaluator.predict(outputs.logits)
    confidence = evaluator.probabilities(outputs.logits)
    if evaluator.task == "multiclass":
        confidence = confidence.amax(dim=1)
    else:
        confidence = torch.where(predicted.bool(), confidence, 1 - confidence).prod(dim=1)
    order = confidence.argsort(descending=True, stable=True)
    hits, counted = main_metric_sums(predicted, outputs.labels)[order].cumsum(dim=0).T
    shares = [percent / 100 for percent in range(5, 101, 5)]
    last = [max(1, round(len(order) * share)) - 1 for share in shares]
    scores = (hits / counted.clamp(min=1))[last].tolist()
    columns = zip(shares, last, scores, confidence[order][last].tolist(), strict=True)
    return [
        {"coverage": share, "samples": at + 1, "score": score, "probability": probability}
        for share, at, score, probability in columns
    ]
