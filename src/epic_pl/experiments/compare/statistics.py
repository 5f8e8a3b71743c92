"""Metrics of test predictions as functions of sums, and a paired bootstrap over pictures.

A metric of resampled data costs one matrix product this way.

Shape legend: N samples, G groups, D draws, C classes, k sums of a metric, ``...`` any shape.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from epic_pl.types import Task

Floats = npt.NDArray[np.float64]

MAIN_METRIC: dict[Task, str] = {"multiclass": "accuracy", "multilabel": "f1_micro"}
DRAWS = 2000
_AT_A_TIME = 100
_PREFIX = "probability_"


class Predictions(NamedTuple):
    """Test predictions of a run: N ids, ``truth (N, C)`` bool, ``scores (N, C)``.

    ``groups`` are the units of the bootstrap: pictures where they are known, else samples. Rows
    of one picture are not independent.
    """

    ids: list[str]
    groups: list[str]
    truth: npt.NDArray[np.bool_]
    scores: Floats
    task: Task

    @classmethod
    def read(cls, path: Any) -> "Predictions":
        """Read the table of :class:`~epic_pl.experiments.compare.diary.TestOutputs`."""
        table = pq.read_table(path)
        names = [name for name in table.column_names if name.startswith(_PREFIX)]
        index = {name.removeprefix(_PREFIX): number for number, name in enumerate(names)}
        truth = np.zeros((table.num_rows, len(names)), dtype=bool)
        for row, label in enumerate(table["truth"].to_pylist()):
            for name in [label] if isinstance(label, str) else label:
                truth[row, index[name]] = True
        scores = np.stack([table[name].to_numpy() for name in names], axis=1)
        single = str(table.schema.field("truth").type) == "string"
        ids = table["sample_id"].to_pylist()
        known = "picture" in table.column_names
        pictures = table["picture"].to_pylist() if known else [None] * len(ids)
        groups = [picture or each for picture, each in zip(pictures, ids, strict=True)]
        task: Task = "multiclass" if single else "multilabel"
        return cls(ids, groups, truth, scores.astype(np.float64), task)


def sample_sums(metric: str, predictions: Predictions) -> Floats | None:
    """Summands of a metric for each sample ``(N, k)``; None if it is no function of sums.

    Multilabel predictions are scores of at least 0.5.
    """
    truth, scores = predictions.truth, predictions.scores
    ones = np.ones(len(truth))
    if metric in ("accuracy", "accuracy_top5") and predictions.task == "multiclass":
        best = np.argsort(-scores, axis=1, kind="stable")[:, : 1 if metric == "accuracy" else 5]
        return np.stack([np.take_along_axis(truth, best, axis=1).any(axis=1), ones], axis=1)
    if predictions.task == "multilabel":
        predicted = scores >= 0.5  # (N, C)
    else:
        predicted = np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, None]
    # true positives, false positives, false negatives (N, 3, C)
    counts = np.stack([truth & predicted, ~truth & predicted, truth & ~predicted], axis=1)
    if metric == "f1_samples":
        return np.stack([_f1(counts.sum(axis=2).T), ones], axis=1)
    if metric in ("f1_macro", "f1_micro", "f1_weighted"):
        return counts.reshape(len(truth), -1).astype(np.float64)
    return None


def value_of(metric: str, sums: Floats, task: Task) -> Floats:
    """The metric ``(...)`` from sums ``(..., k)`` of :func:`sample_sums`, over any samples.

    Macro F1 of a multiclass task leaves out classes that neither occur nor are predicted.
    """
    if metric in ("accuracy", "accuracy_top5", "f1_samples"):
        return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], 1))
    counts = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)  # (3, ..., C)
    if metric == "f1_micro":
        return _f1(counts.sum(axis=-1))
    weights = np.ones_like(counts[0])
    if metric == "f1_weighted":
        weights = counts[0] + counts[2]
    elif task == "multiclass":
        weights = (counts.sum(axis=0) > 0).astype(np.float64)
    return np.asarray((weights * _f1(counts)).sum(-1) / np.maximum(weights.sum(-1), 1))


def _f1(counts: npt.NDArray[Any]) -> Floats:
    """F1 from true positives, false positives and false negatives along the first axis; 0 of 0."""
    hits, wrong, missed = counts.astype(np.float64)
    return np.asarray(2 * hits / np.maximum(2 * hits + wrong + missed, 1))


def sums_of_groups(sums: Floats, groups: Sequence[str], numbers: Mapping[str, int]) -> Floats:
    """``(G, k)`` from the samples' ``(N, k)``; zeros where a group has no sample here."""
    total = np.zeros((len(numbers), sums.shape[1]))
    np.add.at(total, [numbers[group] for group in groups], sums)
    return total


class Difference(NamedTuple):
    """Candidate minus reference, its 95% interval, and the two-sided p-value of no difference."""

    difference: float
    low: float
    high: float
    p_value: float


def paired_bootstrap(
    candidate: Sequence[Floats],
    reference: Sequence[Floats],
    value: Callable[[Floats], Floats],
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """Compare the mean metric over seeds of two methods on the same samples.

    Groups are drawn with replacement, the same ones for all runs. The interval has the 2.5th and
    97.5th percentile of the differences; the p-value is twice the share of draws on the other side
    of zero, zeros counting on both. The spread over seeds is not part of it.

    Args:
        candidate: sums of the metric by group ``(G, k)``, one array a seed.
        reference: the same; the number of seeds may differ.
        value: the metric ``(...)`` from sums ``(..., k)``.
        draws: D.
        seed: seed of the draws.
    """

    def difference(weights: Floats) -> Floats:
        """``(D,)`` for weights ``(D, G)``."""
        one, other = (
            np.mean([value(weights @ sums) for sums in side], axis=0)
            for side in (candidate, reference)
        )
        return np.asarray(one - other)

    size = len(reference[0])
    observed = float(difference(np.ones((1, size)))[0])
    drawn = np.concatenate([difference(w) for w in _weights(size, draws, seed)])  # (D,)
    # equal counts must give exactly zero
    drawn[np.abs(drawn) < 1e-12] = 0.0
    low, high = np.percentile(drawn, [2.5, 97.5])
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return Difference(observed, float(low), float(high), min(1.0, 2 * (tail + 1) / (draws + 1)))


def _weights(size: int, draws: int, seed: int) -> Iterator[Floats]:
    """How often each group is drawn, ``(<= 100, G)`` at a time."""
    rng = np.random.default_rng(seed)
    shares = np.full(size, 1 / size)
    for start in range(0, draws, _AT_A_TIME):
        count = min(_AT_A_TIME, draws - start)
        yield rng.multinomial(size, shares, size=count).astype(np.float64)
