"""A paired bootstrap over images of the main metric, which is a ratio of sums.

Shape legend: N samples, G groups, D draws, C classes, ``...`` any shape.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch

from epic_pl.module.metrics import main_metric_sums, metric_inputs
from epic_pl.utils.types import Task

Floats = npt.NDArray[np.float64]

MAIN_METRIC: dict[Task, str] = {"multiclass": "accuracy", "multilabel": "f1_micro"}
DRAWS = 10_000
_AT_A_TIME = 100
_PREFIX = "probability_"


class Predictions(NamedTuple):
    """Test predictions of a run: N ids, ``truth (N, C)`` bool, ``scores (N, C)``.

    ``groups`` are the units of the bootstrap: images if they are known, else samples. Samples of
    one image are not independent.
    """

    ids: list[str]
    groups: list[str]
    truth: npt.NDArray[np.bool_]
    scores: Floats
    task: Task

    @classmethod
    def read(cls, path: Any) -> "Predictions":
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
        return cls(ids, groups, truth, scores.astype(np.float64), task)


def sums_of_samples(predictions: Predictions) -> Floats:
    """Numerator and denominator of the task's main metric for each sample, ``(N, 2)``."""
    truth, scores = torch.from_numpy(predictions.truth), torch.from_numpy(predictions.scores)
    predicted = metric_inputs(predictions.task, scores)  # MAIN_METRIC has the threshold 0.5
    if predictions.task == "multiclass":
        truth, predicted = truth.long().argmax(dim=1), predicted.argmax(dim=1)
    return np.asarray(main_metric_sums(predicted, truth).double().numpy())


def value_of(sums: Floats) -> Floats:
    """The metric ``(...)`` from sums ``(..., 2)`` over samples; 0 without samples."""
    return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], 1))


def sums_of_groups(sums: Floats, groups: Sequence[str], numbers: Mapping[str, int]) -> Floats:
    """Sums ``(G, 2)`` of groups from those of samples ``(N, 2)``; 0 for a group without any."""
    total = np.zeros((len(numbers), sums.shape[1]))
    np.add.at(total, [numbers[group] for group in groups], sums)
    return total


def paired_bootstrap(
    candidate: Sequence[Floats], reference: Sequence[Floats], draws: int = DRAWS, seed: int = 0
) -> dict[str, float]:
    """Compare the mean metric over seeds of two methods on the same samples.

    Groups are drawn with replacement, the same ones for all runs. The variation over seeds is not
    taken into account.

    Args:
        candidate: sums ``(G, 2)`` of the metric by group, an array for each seed.
        reference: sums of the other method; the number of seeds may differ.
        draws: number of draws D, a multiple of 100.
        seed: seed of the draws.

    Returns:
        ``difference``, candidate minus reference; ``low`` and ``high``, the 2.5th and 97.5th
        percentile of the drawn differences; ``p_value``, twice the share of draws on the other
        side of zero, where zeros count for both sides.
    """

    def difference(weights: Floats) -> Floats:
        """Differences ``(D,)`` for weights ``(D, G)``."""
        one, other = (
            np.mean([value_of(weights @ sums) for sums in side], axis=0)
            for side in (candidate, reference)
        )
        return np.asarray(one - other)

    size = len(reference[0])
    observed = float(difference(np.ones((1, size)))[0])
    rng, shares = np.random.default_rng(seed), np.full(size, 1 / size)
    blocks = (rng.multinomial(size, shares, size=_AT_A_TIME) for _ in range(draws // _AT_A_TIME))
    drawn = np.concatenate([difference(block.astype(np.float64)) for block in blocks])  # (D,)
    # without rounding errors, so that equal counts give exactly zero
    drawn[np.abs(drawn) < 1e-12] = 0.0
    low, high = np.percentile(drawn, [2.5, 97.5])
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p_value = min(1.0, 2 * (tail + 1) / (draws + 1))
    return {"difference": observed, "low": float(low), "high": float(high), "p_value": p_value}


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction of the p-values of one table (Scandinavian J. of Statistics 6, 1979)."""
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = least
    return corrected
