"""Metrics as functions of sums over samples, so that resampled data sets cost a product each.

Shape legend: N samples, C classes, k numbers summed, ``...`` any shape.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from epic_pl.types import Task

Floats = npt.NDArray[np.float64]

MAIN_METRIC: dict[Task, str] = {"multiclass": "accuracy", "multilabel": "f1_micro"}
_PREFIX = "probability_"


class Predictions(NamedTuple):
    """Of one run on the test split: N ids, ``truth (N, C)`` bool, ``scores (N, C)``."""

    ids: list[str]
    truth: npt.NDArray[np.bool_]
    scores: Floats
    task: Task

    @classmethod
    def read(cls, path: Any) -> "Predictions":
        """The table that :class:`~epic_pl.experiments.compare.diary.TestOutputs` writes."""
        table = pq.read_table(path)
        names = [name for name in table.column_names if name.startswith(_PREFIX)]
        index = {name.removeprefix(_PREFIX): number for number, name in enumerate(names)}
        truth = np.zeros((table.num_rows, len(names)), dtype=bool)
        labels = table["truth"].to_pylist()
        for row, label in enumerate(labels):
            for name in [label] if isinstance(label, str) else label:
                truth[row, index[name]] = True
        columns = [table[name].to_numpy() for name in names]
        single = str(table.schema.field("truth").type) == "string"
        task: Task = "multiclass" if single else "multilabel"
        ids = table["sample_id"].to_pylist()
        return cls(ids, truth, np.stack(columns, axis=1).astype(np.float64), task)


def sample_sums(metric: str, predictions: Predictions) -> Floats | None:
    """What a metric needs of each sample ``(N, k)``; None for one that is no function of sums.

    Multilabel predictions are scores of at least 0.5.
    """
    truth, scores = predictions.truth, predictions.scores
    ones = np.ones(len(truth))
    if metric in ("accuracy", "accuracy_top5") and predictions.task == "multiclass":
        best = np.argsort(-scores, axis=1, kind="stable")[:, : 1 if metric == "accuracy" else 5]
        return np.stack([np.take_along_axis(truth, best, axis=1).any(axis=1), ones], axis=1)
    if predictions.task == "multilabel":
        guessed = scores >= 0.5  # (N, C)
    else:
        guessed = np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, None]
    counts = np.stack([truth & guessed, ~truth & guessed, truth & ~guessed], axis=1)  # (N, 3, C)
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
