"""Rows of a comparison: mean and deviation over seeds, cost, and the paired bootstrap.

Shape legend: N test samples, C classes.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np

from epic_pl.experiments.compare.statistics import (
    TESTED,
    Predictions,
    bootstrap,
    holm,
    paired_difference,
)
from epic_pl.experiments.runs import Run
from epic_pl.utils.errors import ConfigError

Row = dict[str, Any]
MAJORITY = "majority"
ALONE = ("text", "image", "columns")
"""Endings of the names of runs on one source: ``EPIC-text`` is EPIC on the text alone."""
COSTS = ("trainable", "encoder_share", "samples_per_s", "peak_memory_mb", "seconds", "latency_ms")
_TESTED = ("p_value", "difference", "low", "high", "over_alone")
_EMPTY: Row = dict.fromkeys(("metric", "mean", "std", *COSTS))
_EMPTY |= {"seeds": [], "values": []} | dict.fromkeys((*_TESTED, "cache_level")) | {"status": "ok"}


def comparison_rows(runs: Sequence[Run], reference: str) -> list[Row]:
    """A row for each method and metric, the task's main metric first.

    A row has ``method, metric, mean, std, seeds, values`` (None where the metric is not defined;
    mean and std are over the others), the costs (means over seeds), ``difference, low, high`` from
    the reference (metrics of :data:`~epic_pl.experiments.compare.statistics.TESTED`), ``p_value``
    of the main metric's difference, with Holm's correction for the number of methods,
    ``over_alone`` (``difference, low, high`` of a method from its best run on one source, the
    row ``alone``), ``cache_level``, and ``status``: "ok", or the messages of runs that are not in
    the mean. A method without a finished run has one row with its status only. The first row is the
    most frequent class of the test split, with the main metric. Unless all runs have ended, the
    bootstrap is left out.

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
        found = bootstrap(majority, metrics[:1], _groups(predictions), draws=0)
        values = [float(each[metrics[0]][0]) for each in found]
        rows.append({"method": MAJORITY} | _EMPTY | _spread(metrics[0], values))
    for name, group in by_name.items():
        rows += _method_rows(name, group, metrics)
    if all(run.ended for run in runs) and predictions.get(reference):
        _test(rows, reference, predictions)
    return rows


def _test(rows: Sequence[Row], reference: str, runs: Mapping[str, Sequence[Predictions]]) -> None:
    """Add differences from the reference and from one modality alone, with their intervals."""
    known = {row["metric"] for row in rows if row["method"] == reference}
    main, *others = (name for name in TESTED[runs[reference][0].task] if name in known)
    drawn = iter(bootstrap(list(chain(*runs.values())), (main, *others), _groups(runs)))
    values = {name: list(islice(drawn, len(group))) for name, group in runs.items()}

    def compared(row: Row, other: str) -> Row:
        if not _paired(runs[row["method"]], runs[other]):
            return {}
        names = (row["method"], other)
        return paired_difference(*([v[row["metric"]] for v in values[name]] for name in names))

    for metric in (main, *others):
        of_metric = [row for row in rows if row["metric"] == metric and row["method"] != MAJORITY]
        for row in of_metric:
            if row["method"] != reference:
                row |= compared(row, reference)
            if (better := _better_alone(row, of_metric)) and (gain := compared(row, better)):
                del gain["p_value"]  # which is of one comparison, not of all of the table
                row["over_alone"] = {"alone": better, **gain}
        tested = [row for row in of_metric if row["p_value"] is not None]
        for row, p_value in zip(tested, holm([row["p_value"] for row in tested]), strict=True):
            row["p_value"] = p_value if metric == main else None


def _predictions(run: Run) -> Predictions:
    """Read the predictions of a finished run; ConfigError if its files are damaged."""
    try:
        _ = _method_rows("", [run], _metrics(run))[0]
        thresholds = (run.result or {}).get("thresholds")
        return Predictions.read(run.folder / "predictions.parquet", thresholds)
    except Exception as error:  # a damaged file may cause any error
        damaged = f"result.json or predictions.parquet in {run.folder} is damaged ({error!r:.99})"
        raise ConfigError(f"{damaged}: remove that folder to repeat the run.") from error


def _metrics(run: Run) -> list[str]:
    """The metrics of a finished run: the main one, others with an interval, all others."""
    result = run.result or {}
    main, *tested = TESTED[result["task"]]
    first = [main, *(name for name in tested if name in result["metrics"])]
    return [*first, *(name for name in sorted(result["metrics"]) if name not in (*first, "loss"))]


def _method_rows(name: str, runs: Sequence[Run], metrics: Sequence[str]) -> list[Row]:
    results = [run.result for run in runs if run.result]
    missing = [f"seed {run.seed} {_why(run)}" for run in runs if not run.result]
    row: Row = {"method": name} | _EMPTY | {"status": "; ".join(missing) or "ok"}
    if not results:
        return [row | {"metric": metrics[0]}]
    row |= {cost: _mean([result[cost] for result in results]) for cost in COSTS}
    row |= {"trainable": results[0]["trainable"], "cache_level": results[0]["cache_level"]}
    row["seeds"] = [run.seed for run in runs if run.result]
    known = [metric for metric in metrics if metric in results[0]["metrics"]]
    return [row | _spread(metric, [r["metrics"][metric] for r in results]) for metric in known]


def _why(run: Run) -> str:
    """The reason why a run has no result."""
    return f"failed: {run.failure}" if run.failure else "not finished"


def _spread(metric: str, values: list[float]) -> Row:
    """Mean and sample standard deviation of defined values; the latter is missing for one."""
    shown = [value if math.isfinite(value) else None for value in values]  # JSON has no NaN
    known = [value for value in shown if value is not None]
    std = float(np.std(known, ddof=1)) if len(known) > 1 else None
    return {"metric": metric, "mean": _mean(known), "std": std, "values": shown}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(known)) if known else None


def _majority(runs: Sequence[Predictions]) -> list[Predictions]:
    """Predictions of the most frequent class for all samples, for each test split.

    Multilabel: all labels that at least half of the samples have.
    """
    return [
        run._replace(scores=np.tile(run.truth.mean(axis=0), (len(run.ids), 1)))  # (N, C)
        for run in {tuple(run.ids): run for run in runs}.values()
    ]


def _better_alone(row: Row, rows: Sequence[Row]) -> str | None:
    """The best of a method's runs on one source, at least two; None unless all have a mean."""
    names = [f"{row['method']}-{source}" for source in ALONE]
    alone = [each for each in rows if each["method"] in names]
    if len(alone) < 2 or any(each["mean"] is None for each in (row, *alone)):
        return None
    return str(max(alone, key=lambda each: float(each["mean"]))["method"])


def _groups(runs: Mapping[str, Sequence[Predictions]]) -> list[str]:
    """The groups of all runs, each once."""
    return list(dict.fromkeys(chain.from_iterable(run.groups for run in chain(*runs.values()))))


def _paired(candidate: Sequence[Predictions], reference: Sequence[Predictions]) -> bool:
    """Whether samples can be paired; a seed may have a test split of its own, if both have it."""
    ids = [run.ids for run in reference]
    one_split = all(run.ids == ids[0] for run in (*candidate, *reference))
    return bool(candidate) and (one_split or [run.ids for run in candidate] == ids)
