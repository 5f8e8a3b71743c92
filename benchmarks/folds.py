"""Methods and options judged on folds of the training rows; no test split is read.

Cross-validation over the rows outside of the test split, on both OpenMoji tasks and on the four
tables of `tables.py`. Each run is a fit and a test on the fold, in a process of its own; finished
runs are not repeated, so that the same command resumes. Other options go to epic-pl fit:

    python benchmarks/folds.py
    python benchmarks/folds.py --tasks openmoji,one_word --methods epic --model.head.boundary false
"""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import cca
import logistic
import tables
from epic_pl.experiments.compare.plan import choose, plan
from epic_pl.experiments.runs import Run, execute
from epic_pl.experiments.training import train_and_test
from epic_pl.utils.files import try_read_json, write_json

OPENMOJI = ("openmoji", "openmoji_entailment")
LOGISTIC = "logistic"
# the last epoch counts, so that none is chosen on validation
LAST_EPOCH = ("--checkpoint.monitor=null", "--early_stopping.patience=null")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tasks", default=",".join((*OPENMOJI, *tables.TABLES)))
    parser.add_argument(
        "--methods", default="linear_probe,epic", help="logistic: scikit-learn's, see logistic.py"
    )
    parser.add_argument("--folds", default="0,1,2", help="up to 2; OpenMoji has more (%(default)s)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--draw", type=int, default=0, help="seed of the tables' texts and labels")
    parser.add_argument("--folder", type=Path, default=Path("runs/folds"))
    parser.add_argument("--json", action="store_true", help="print the rows as JSON at the end")
    arguments, options = parser.parse_known_args()
    folds = [int(fold) for fold in arguments.folds.split(",")]
    methods = [name for name in arguments.methods.split(",") if name != LOGISTIC]
    variants = choose(",".join(methods), []) if methods else []
    groups: dict[tuple[str, str], list[Run]] = {}
    regressions: dict[str, list[float]] = {}
    for task in arguments.tasks.split(","):
        for fold in folds:
            shared = [*options_of(task, fold, arguments), *LAST_EPOCH, *options]
            if LOGISTIC in arguments.methods:
                score = 100 * regression(shared, arguments.folder / task / f"fold{fold}" / LOGISTIC)
                regressions.setdefault(task, []).append(score)
            runs = plan(variants, arguments.seeds, shared, arguments.folder / task / f"fold{fold}")
            for run in runs:
                shown = replace(run, name=f"{task}, fold {fold}, {run.name}")
                groups.setdefault((task, run.name), []).append(shown)
    rows = judge(groups)
    for task, values in regressions.items():
        rows.append({"task": task, "method": LOGISTIC, "score": values})
    show(rows)
    if arguments.json:
        print(json.dumps(rows))
    return 0


def options_of(task: str, fold: int, arguments: argparse.Namespace) -> list[str]:
    """Options of ``fit`` under which a fold is the test split."""
    if task in OPENMOJI:
        return ["--config", f"{task}.yaml", f"--data.fold={fold}"]
    if task not in tables.TABLES:
        known = ", ".join((*OPENMOJI, *tables.TABLES))
        raise SystemExit(f"No task {task}; there are: {known}.")
    config = tables.write(arguments.folder / "tables", task, arguments.draw)
    return ["--config", str(config), f"--data.split_column=fold{fold}"]


def regression(options: list[str], folder: Path) -> float:
    """Accuracy or micro F1 of logistic regression on a fold; a finished one is not repeated."""
    if (result := try_read_json(folder / "result.json")) is None:
        fitted = logistic.fit_best(options, test=True)
        path = folder / "predictions.parquet"
        rows, scores = fitted.splits["test"], fitted.scores("test")
        result = cca.write_predictions(rows, scores, fitted.data, path)
        write_json(folder / "result.json", result)
    return float(result.get("f1_micro", result.get("accuracy", 0.0)))


def judge(groups: dict[tuple[str, str], list[Run]]) -> list[dict[str, Any]]:
    """Do all runs; a row for each task and method, in percent."""
    runs = [run for group in groups.values() for run in group]
    try:
        execute(runs, train_and_test)
    except KeyboardInterrupt:
        print("Interrupted: the same command continues with what is left.", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    if any(run.result is None for run in runs):
        raise SystemExit("Not all runs have finished: the lines above say why.")
    return [
        {"task": task, "method": method, **scores(group)}
        for (task, method), group in groups.items()
    ]


def scores(runs: Sequence[Run]) -> dict[str, list[float]]:
    """Accuracy, or micro F1 of several labels, and calibration errors on each fold, in percent."""
    metrics = [(run.result or {})["metrics"] for run in runs]
    main = "f1_micro" if "f1_micro" in metrics[0] else "accuracy"
    names = {"score": main, "ece": "ece", "uncalibrated": "ece_uncalibrated"}
    return {key: [100 * found[name] for found in metrics] for key, name in names.items()}


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Mean and standard deviation over folds and seeds, and the mean over tasks."""
    table = Table("task", "method", "accuracy or micro F1 %", "ECE %", "before calibration", "runs")
    for row in rows:
        values = row["score"]
        spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
        errors = (f"{np.mean(row[n]):.1f}" if n in row else "" for n in ("ece", "uncalibrated"))
        score = f"{np.mean(values):.1f}{spread}"
        table.add_row(row["task"], row["method"], score, *errors, str(len(values)))
    for method in dict.fromkeys(row["method"] for row in rows):
        means = [np.mean(row["score"]) for row in rows if row["method"] == method]
        table.add_row("mean of all tasks", method, f"{np.mean(means):.1f}", "", "", "")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
