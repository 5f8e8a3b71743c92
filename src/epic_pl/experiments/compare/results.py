"""Rows out of runs: means and spreads over seeds, cost, and what the bootstrap says.

Shape legend: N test samples, C classes.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch

from epic_pl.experiments.compare.runner import Outcome
from epic_pl.experiments.compare.significance import (
    Difference,
    number_groups,
    paired_bootstrap,
    sums_of_groups,
)
from epic_pl.experiments.compare.statistics import MAIN_METRIC, Predictions, sample_sums, value_of
from epic_pl.module.metrics import build_metrics

Row = dict[str, Any]
MAJORITY = "majority"
COSTS = (
    "trainable",
    "samples_per_s",
    "peak_memory_mb",
    "encoder_share",
    "seconds",
    "seconds_to_best",
    "prepare_seconds",
)


def comparison_rows(outcomes: Sequence[Outcome], reference: str, tested: bool = True) -> list[Row]:
    """A row for each method and metric, the task's main metric first.

    A row has ``method, metric, mean, std, trainable, samples_per_s, peak_memory_mb`` and the other
    costs (means over seeds), ``seeds`` and ``values``, the reference's comparison ``p_value,
    difference, low, high``, ``cache_level``, and ``status``: "ok", or what became of runs that are
    not in the mean. A method none of whose runs is done has a row with its status alone.

    Args:
        outcomes: of all runs.
        reference: the name that the others are compared with.
        tested: False leaves the bootstrap out, which can take a minute on a large test split.
    """
    by_name: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_name.setdefault(outcome.run.name, []).append(outcome)
    done = {name: [o for o in each if o.result is not None] for name, each in by_name.items()}
    first = next((o for each in done.values() for o in each), None)
    metrics = ["accuracy"] if first is None else _metrics(first)
    predictions = {
        name: [Predictions.read(o.run.folder / "predictions.parquet") for o in each]
        for name, each in done.items()
    }
    rows = []
    if first is not None:
        like = predictions[first.run.name]
        if all(each.ids == like[0].ids for each in like):
            like = like[:1]  # one split, and so one majority
        predictions[MAJORITY] = [
            _majority(outcome, each)
            for outcome, each in zip(done[first.run.name], like, strict=False)
        ]
        rows += _majority_rows(metrics, predictions[MAJORITY])
    for name, each in by_name.items():
        rows += _method_rows(name, each, metrics)
    for row in rows if tested else ():
        if row["method"] != reference and predictions[row["method"]] and predictions.get(reference):
            row |= _compared(row["metric"], predictions[row["method"]], predictions[reference])
    return rows


def _metrics(outcome: Outcome) -> list[str]:
    result = outcome.result or {}
    main = MAIN_METRIC[result["task"]]
    return [main, *(n for n in sorted(result["metrics"]) if n not in (main, "loss"))]


def _method_rows(name: str, outcomes: Sequence[Outcome], metrics: Sequence[str]) -> list[Row]:
    done = [o for o in outcomes if o.result is not None]
    results: list[Mapping[str, Any]] = [o.result for o in done if o.result is not None]
    missing = [f"seed {o.run.seed} {o.message}" for o in outcomes if o.result is None]
    row = _empty(name, metrics[0]) | {"status": "; ".join(missing) or "ok"}
    if not results:
        return [row]
    row |= {cost: _mean([result[cost] for result in results]) for cost in COSTS}
    row["trainable"] = results[0]["trainable"]
    row |= {"seeds": [o.run.seed for o in done], "cache_level": results[0]["cache_level"]}
    return [row | _spread(metric, [r["metrics"][metric] for r in results]) for metric in metrics]


def _empty(name: str, metric: str) -> Row:
    row: Row = {"method": name, "metric": metric, "mean": None, "std": None}
    row |= dict.fromkeys(COSTS)
    row |= {"seeds": [], "values": [], "p_value": None, "difference": None}
    return row | {"low": None, "high": None, "cache_level": None, "status": "ok"}


def _spread(metric: str, values: list[float]) -> Row:
    """Mean and sample standard deviation; one seed has none."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"metric": metric, "mean": _mean(values), "std": std, "values": values}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(known)) if known else None


def _majority(outcome: Outcome, like: Predictions) -> Predictions:
    """Training frequencies as the scores of every sample: the most frequent class wins.

    Multilabel: labels that at least half of the training rows have.
    """
    frequencies = np.array((outcome.result or {})["train_frequencies"])  # (C,)
    return like._replace(scores=np.tile(frequencies, (len(like.ids), 1)))


def _majority_rows(metrics: Sequence[str], predictions: Sequence[Predictions]) -> list[Row]:
    measured = [_measured(each) for each in predictions]
    return [
        _empty(MAJORITY, name) | _spread(name, [values[name] for values in measured])
        for name in metrics
        if name in measured[0]
    ]


def _measured(predictions: Predictions) -> dict[str, float]:
    truth = torch.from_numpy(predictions.truth)
    labels = truth.int() if predictions.task == "multilabel" else truth.int().argmax(dim=1)
    metrics = build_metrics(predictions.task, truth.shape[1], "")
    values = metrics(torch.from_numpy(predictions.scores).float(), labels)
    return {name: float(value) for name, value in values.items()}


def _compared(
    metric: str, candidate: Sequence[Predictions], reference: Sequence[Predictions]
) -> Row:
    """Nothing where samples differ, so that they cannot be paired, or the metric has no sums.

    Seeds may have test splits of their own, as long as they are the same for both methods.
    """
    ids = [each.ids for each in reference]
    one_split = all(each.ids == ids[0] for each in (*candidate, *reference))
    if not one_split and [each.ids for each in candidate] != ids:
        return {}
    numbers = number_groups(chain.from_iterable(ids))
    one, other = (
        [
            sums_of_groups(sums, each.ids, numbers)
            for each in side
            if (sums := sample_sums(metric, each)) is not None
        ]
        for side in (candidate, reference)
    )
    if not one or not other:
        return {}
    value = partial(value_of, metric, task=reference[0].task)
    found: Difference = paired_bootstrap(one, other, value)
    return found._asdict()
