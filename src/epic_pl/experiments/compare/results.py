"""Rows of a comparison: mean and deviation over seeds, cost, and the paired bootstrap.

Shape legend: N test samples, C classes.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from epic_pl.experiments.compare.statistics import (
    MAIN_METRIC,
    Predictions,
    holm,
    paired_bootstrap,
    sums_of_groups,
    sums_of_samples,
    value_of,
)
from epic_pl.experiments.runs import Run
from epic_pl.utils.errors import ConfigError

Row = dict[str, Any]
MAJORITY = "majority"
ALONE = ("text", "image")
"""Endings of the names of runs on one modality: ``EPIC-text`` is EPIC on the text alone."""
COSTS = ("trainable", "encoder_share", "samples_per_s", "peak_memory_mb", "seconds", "latency_ms")
_TESTED = ("p_value", "difference", "low", "high", "over_alone")
_EMPTY: Row = dict.fromkeys(("metric", "mean", "std", *COSTS))
_EMPTY |= {"seeds": [], "values": []} | dict.fromkeys((*_TESTED, "cache_level")) | {"status": "ok"}


def comparison_rows(runs: Sequence[Run], reference: str) -> list[Row]:
    """A row for each method and metric, the task's main metric first.

    A row has ``method, metric, mean, std, seeds, values``, the costs (means over seeds),
    ``p_value, difference, low, high`` against the reference (main metric only; p-values with
    Holm's correction for the number of methods), ``over_alone`` (``difference, low, high`` of a
    method from its better run on one modality, the row ``alone``), ``cache_level``, and
    ``fitted``, the number of seeds whose thresholds were fitted and are not all 0.5, and
    ``status``: "ok", or the messages of runs that are not in the mean. A method without a finished
    run has one row with its status only. The first row is the most frequent class of the test
    split, with the main metric. Unless all runs have ended, the bootstrap is left out.

    Raises:
        ConfigError: if the files of a finished run are damaged.
    """
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        by_name.setdefault(run.name, []).append(run)
    predictions = {
        name: [_predictions(run) for run in group if run.result] for name, group in by_name.items()
    }
    rows: list[Row] = []
    metrics = ["accuracy"]
    if done := [run for group in by_name.values() for run in group if run.result]:
        metrics = _metrics(done[0])
        majority = _majority(predictions[done[0].name])
        values = [float(value_of(sums_of_samples(split).sum(axis=0))) for split in majority]
        rows.append({"method": MAJORITY} | _EMPTY | _spread(metrics[0], values))
    for name, group in by_name.items():
        rows += _method_rows(name, group, metrics)
    if all(run.ended for run in runs) and predictions.get(reference):
        main = [row for row in rows if row["metric"] == metrics[0]]
        others = [row for row in main if row["method"] not in (reference, MAJORITY)]
        for row in others:
            row |= _compared(predictions[row["method"]], predictions[reference])
        for row in main:
            row["over_alone"] = _over_alone(row, main, predictions)
        compared = [row for row in others if row["p_value"] is not None]
        p_values = holm([row["p_value"] for row in compared])
        for row, p_value in zip(compared, p_values, strict=True):
            row["p_value"] = p_value
    return rows


def _predictions(run: Run) -> Predictions:
    """Read the predictions of a finished run; ConfigError if its files are damaged."""
    try:
        float(_method_rows("", [run], _metrics(run))[0]["mean"])
        return Predictions.read(run.folder / "predictions.parquet")
    except Exception as error:  # a damaged file may cause any error
        damaged = f"result.json or predictions.parquet in {run.folder} is damaged ({error!r:.99})"
        raise ConfigError(f"{damaged}: remove that folder to repeat the run.") from error


def _metrics(run: Run) -> list[str]:
    result = run.result or {}
    main = MAIN_METRIC[result["task"]]
    return [main, *(name for name in sorted(result["metrics"]) if name not in (main, "loss"))]


def _method_rows(name: str, runs: Sequence[Run], metrics: Sequence[str]) -> list[Row]:
    results = [run.result for run in runs if run.result]
    missing = [f"seed {run.seed} {_why(run)}" for run in runs if not run.result]
    row: Row = {"method": name} | _EMPTY | {"status": "; ".join(missing) or "ok"}
    if not results:
        return [row | {"metric": metrics[0]}]
    row |= {cost: _mean([result[cost] for result in results]) for cost in COSTS}
    row |= {"trainable": results[0]["trainable"], "cache_level": results[0]["cache_level"]}
    row["seeds"] = [run.seed for run in runs if run.result]
    row["fitted"] = sum(bool(result.get("fitted_thresholds")) for result in results)
    known = [metric for metric in metrics if metric in results[0]["metrics"]]
    return [row | _spread(metric, [r["metrics"][metric] for r in results]) for metric in known]


def _why(run: Run) -> str:
    """The reason why a run has no result."""
    return f"failed: {run.failure}" if run.failure else "not finished"


def _spread(metric: str, values: list[float]) -> Row:
    """Mean and sample standard deviation; the latter is missing for one seed."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"metric": metric, "mean": _mean(values), "std": std, "values": values}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(known)) if known else None


def _majority(runs: Sequence[Predictions]) -> list[Predictions]:
    """Predictions of the most frequent class for all samples, for each test split.

    Multilabel: all labels that at least half of the samples have.
    """
    by_split = {
        tuple(run.ids): run._replace(
            scores=np.tile(run.truth.mean(axis=0), (len(run.ids), 1))  # (N, C)
        )
        for run in runs
    }
    return list(by_split.values())


def _over_alone(
    row: Row, rows: Sequence[Row], predictions: Mapping[str, Sequence[Predictions]]
) -> Row | None:
    """The difference of a row's method from its better run on one modality; None without both."""
    names = [f"{row['method']}-{modality}" for modality in ALONE]
    alone = [each for each in rows if each["method"] in names and each["seeds"]]
    if row["mean"] is None or len(alone) < len(ALONE):
        return None
    better = max(alone, key=lambda each: float(each["mean"]))["method"]
    compared = _compared(predictions[row["method"]], predictions[better])
    compared.pop("p_value", None)  # which names one comparison, not all of the table
    return {"alone": better, **compared} if compared else None


def _compared(candidate: Sequence[Predictions], reference: Sequence[Predictions]) -> Row:
    """Columns of the bootstrap; empty if the samples cannot be paired.

    Each seed may have its own test split, if it is the same for both methods.
    """
    ids = [run.ids for run in reference]
    one_split = all(run.ids == ids[0] for run in (*candidate, *reference))
    if not candidate or (not one_split and [run.ids for run in candidate] != ids):
        return {}
    groups = dict.fromkeys(chain.from_iterable(run.groups for run in reference))
    numbers = {group: number for number, group in enumerate(groups)}
    candidate_sums, reference_sums = (
        [sums_of_groups(sums_of_samples(run), run.groups, numbers) for run in side]
        for side in (candidate, reference)
    )
    return paired_bootstrap(candidate_sums, reference_sums)
