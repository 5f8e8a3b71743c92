"""A paired bootstrap over images of the metrics of finished runs.

Shape legend: N samples, G groups, D draws, C classes, R runs.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from torch import Tensor

from epic_pl.module.metrics import main_metric_sums
from epic_pl.module.postprocess import assign_labels
from epic_pl.module.ranking import RANKING, ranking_scores
from epic_pl.utils.types import Task

Floats = npt.NDArray[np.float64]

TESTED: dict[Task, tuple[str, ...]] = {
    "multiclass": ("accuracy", "auroc"),
    "multilabel": ("map", "f1_micro", "f1_micro_tuned"),
}
"""Metrics with an interval. The first is the task's main metric, by which methods are compared."""
DRAWS = 10_000
_FEWEST, _AFFORDABLE = 1000, 2e9  # draws; draws times samples times classes: a minute for each run
_AT_A_TIME = 100
_PREFIX = "probability_"


class Predictions(NamedTuple):
    """Test predictions of a run: N ids, ``truth (N, C)`` bool, ``scores (N, C)``.

    ``groups`` are the units of the bootstrap: images if they are known, else samples. Samples of
    one image are not independent. ``thresholds`` are the fitted ones of each label, None for 0.5.
    """

    ids: list[str]
    groups: list[str]
    truth: npt.NDArray[np.bool_]
    scores: Floats
    task: Task
    thresholds: Sequence[float] | None = None

    @classmethod
    def read(cls, path: Any, thresholds: Sequence[float] | None = None) -> "Predictions":
        """Read the ``predictions.parquet`` of a run."""
        table = pq.read_table(path)
        names = [name for name in table.column_names if name.startswith(_PREFIX)]
        index = {name.removeprefix(_PREFIX): number for number, name in enumerate(names)}
        truth = np.zeros((table.num_rows, len(names)), dtype=bool)
        for row, label in enumerate(table["truth"].to_pylist()):
            for name in [label] if isinstance(label, str) else label:
                truth[row, index[name]] = True
        scores = np.stack([table[name].to_numpy() for name in names], axis=1)
        single = str(table.schema.field("truth").type) == "string"
        ids, images = (table[name].to_pylist() for name in ("sample_id", "image_path"))
        groups = [image or each for image, each in zip(images, ids, strict=True)]
        task: Task = "multiclass" if single else "multilabel"
        return cls(ids, groups, truth, scores.astype(np.float64), task, thresholds)


def bootstrap(
    runs: Sequence[Predictions],
    metrics: Sequence[str],
    groups: Sequence[str],
    draws: int = DRAWS,
    seed: int = 0,
) -> list[dict[str, Floats]]:
    """Metrics of runs on all samples, and on draws of groups with replacement.

    A draw is the same for all runs and metrics. Each metric is computed anew on each draw. Where
    that would take long, there are fewer draws, but at least 1,000.

    Args:
        runs: R runs, whose samples are of these groups; a run may have samples of some only.
        metrics: names in :data:`TESTED`.
        groups: G different groups.
        draws: number of draws D, a multiple of 100.
        seed: seed of the draws.

    Returns:
        For each run the values of each metric, ``(1 + D,)``: of all samples first.
    """
    affordable = max(_FEWEST, int(_AFFORDABLE / max(run.scores.size for run in runs)))
    numbers, size = {group: number for number, group in enumerate(groups)}, len(groups)
    rows = [[numbers[group] for group in run.groups] for run in runs]
    measures = [{metric: _measure(metric, run) for metric in metrics} for run in runs]
    found: list[dict[str, list[Floats]]] = [{metric: [] for metric in metrics} for _ in runs]
    rng, shares = np.random.default_rng(seed), np.full(size, 1 / size)
    for block in range(min(draws, affordable) // _AT_A_TIME + 1):
        counts = rng.multinomial(size, shares, size=_AT_A_TIME).T if block else np.ones((size, 1))
        for own, measure, values in zip(rows, measures, found, strict=True):
            weights = torch.from_numpy(counts[own].astype(np.float64))
            for metric in metrics:
                values[metric].append(measure[metric](weights))
    return [{metric: np.concatenate(parts) for metric, parts in run.items()} for run in found]


def _measure(metric: str, run: Predictions) -> Callable[[Tensor], Floats]:
    """The function that computes a metric ``(D,)`` of a run from weights ``(N, D)`` of samples."""
    truth, scores = torch.from_numpy(run.truth).int(), torch.from_numpy(run.scores)
    multilabel = run.task == "multilabel"
    labels = truth if multilabel else truth.argmax(dim=1)
    if metric == RANKING[run.task]:
        return lambda weights: ranking_scores(run.task, scores, labels, weights).numpy()
    fitted = run.thresholds if metric.endswith("_tuned") else None
    thresholds = torch.tensor(0.5 if fitted is None else fitted)
    predicted = assign_labels(scores, thresholds) if multilabel else scores.argmax(dim=1)
    sums = main_metric_sums(predicted, labels).double().T

    def ratio(weights: Tensor) -> Floats:
        hits, counted = (sums @ weights).unbind()
        return (hits / counted.clamp(min=1)).numpy()  # 0 without samples

    return ratio


def paired_difference(candidate: Sequence[Floats], reference: Sequence[Floats]) -> dict[str, float]:
    """Compare the mean metric over seeds of two methods on the same samples.

    The variation over seeds is not taken into account. Draws on which a metric is not defined do
    not count.

    Args:
        candidate: values ``(1 + D,)`` of :func:`bootstrap`, an array for each seed.
        reference: values of the other method; the number of seeds may differ.

    Returns:
        ``difference``, candidate minus reference; ``low`` and ``high``, the 2.5th and 97.5th
        percentile of the drawn differences; ``p_value``, twice the share of draws on the other
        side of zero, where zeros count for both sides. Nothing if the metric is not defined.
    """
    observed, *drawn = np.mean(candidate, axis=0) - np.mean(reference, axis=0)
    drawn = np.array([value for value in drawn if math.isfinite(value)])
    if not math.isfinite(observed) or not len(drawn):
        return {}
    # without rounding errors, so that equal counts give exactly zero
    drawn[np.abs(drawn) < 1e-12] = 0.0
    low, high = np.percentile(drawn, [2.5, 97.5])
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p_value = min(1.0, 2 * (tail + 1) / (len(drawn) + 1))
    result = {"difference": observed, "low": low, "high": high, "p_value": p_value}
    return {name: float(value) for name, value in result.items()}


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction of the p-values of one table (Scandinavian J. of Statistics 6, 1979)."""
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = least
    return corrected
