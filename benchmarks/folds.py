"""Methods and options judged on folds of the training rows; no test split is read.

Cross-validation over the rows outside of the test split, on both OpenMoji tasks, on the tables of
`tables.py`, and on tables of one's own: a folder as task holds `table.csv` with the columns image,
text, label and split, in this order. Each run is a fit and a test on the fold, in a process of its
own; finished runs are not repeated, so that the same command resumes. Other options go to epic-pl
fit:

    python benchmarks/folds.py
    python benchmarks/folds.py --tasks openmoji,one_word --methods EPIC --model.head.boundary false
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import classical
import tables
from common import build_parser, show
from epic_pl.experiments.compare.plan import add_alone, choose, plan
from epic_pl.experiments.runs import Run, execute
from epic_pl.experiments.training import train_and_test

OPENMOJI = ("openmoji", "openmoji_entailment")
LOGISTIC = "logistic"


def main() -> int:
    parser = build_parser(__doc__)
    parser.add_argument("--tasks", default=",".join((*OPENMOJI, *tables.TABLES)))
    parser.add_argument("--methods", default="LinearProbe,EPIC", help="logistic: of classical.py")
    parser.add_argument("--alone", help="methods that also get the text alone and the image alone")
    parser.add_argument("--folds", default="0,1,2", help="up to 2; OpenMoji has more (%(default)s)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--draw", type=int, default=0, help="seed of the tables' texts and labels")
    parser.add_argument("--folder", type=Path, default=Path("runs/folds"))
    arguments, options = parser.parse_known_args()
    folds = [int(fold) for fold in arguments.folds.split(",")]
    methods = [name for name in arguments.methods.split(",") if name != LOGISTIC]
    variants = choose(",".join(methods), []) if methods else []
    variants = add_alone(variants, arguments.alone) if arguments.alone else variants
    groups: dict[tuple[str, str], list[Run]] = {}
    regressions: dict[str, list[dict[str, Any]]] = {}
    for task in arguments.tasks.split(","):
        for fold in folds:
            shared = [*options_of(task, fold, arguments), *options]
            folder = arguments.folder / Path(task).name / f"fold{fold}"
            if LOGISTIC in arguments.methods:
                result = classical.evaluate(LOGISTIC, shared, folder / LOGISTIC)
                assert result is not None  # CCA alone has none for several labels
                regressions.setdefault(task, []).append(result)
            runs = plan(variants, arguments.seeds, shared, folder)
            for run in runs:
                shown = replace(run, name=f"{task}, fold {fold}, {run.name}")
                groups.setdefault((task, run.name), []).append(shown)
    rows = judge(groups)
    found = regressions.items()
    rows += [{"task": task, "method": LOGISTIC, **scores(each)} for task, each in found]
    show(summary(rows) if not arguments.json else rows, arguments.json)
    return 0


def options_of(task: str, fold: int, arguments: argparse.Namespace) -> list[str]:
    """Options of ``fit`` under which a fold is the test split."""
    if task in OPENMOJI:
        return ["--config", f"{task}.yaml", f"--data.fold={fold}"]
    if task not in tables.TABLES and not Path(task).is_dir():
        known = ", ".join((*OPENMOJI, *tables.TABLES))
        raise SystemExit(f"No task {task}; there are: {known}, and folders with a table.csv.")
    config = tables.write(arguments.folder / "tables", task, arguments.draw)
    return ["--config", str(config), f"--data.split_column=fold{fold}"]


def judge(groups: dict[tuple[str, str], list[Run]]) -> list[dict[str, Any]]:
    """Do all runs; a row for each task and method, in percent."""
    finish([run for group in groups.values() for run in group])
    return [
        {"task": task, "method": method, **scores([run.result or {} for run in group])}
        for (task, method), group in groups.items()
    ]


def finish(runs: Sequence[Run]) -> None:
    """Do the runs that are not finished; the program ends if one has no result."""
    try:
        execute(runs, train_and_test)
    except KeyboardInterrupt:
        print("Interrupted: the same command continues with what is left.", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    if any(run.result is None for run in runs):
        raise SystemExit("Not all runs have finished: the lines above say why.")


def scores(results: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Accuracy, or micro F1 of several labels, and calibration errors on each fold, in percent."""
    metrics = [result["metrics"] for result in results]
    main = "f1_micro" if "f1_micro" in metrics[0] else "accuracy"
    names = {"score": main, "ece": "ece", "uncalibrated": "ece_uncalibrated"}
    return {
        key: [100 * found[name] for found in metrics]
        for key, name in names.items()
        if name in metrics[0]
    }


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over folds and seeds, and the mean over tasks."""
    lines = []
    for row in rows:
        values = row["score"]
        spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
        errors = {
            name: f"{np.mean(row[name]):.1f}" if name in row else ""
            for name in ("ece", "uncalibrated")
        }
        shown = {"score": f"{np.mean(values):.1f}{spread}", **errors, "runs": len(values)}
        lines.append({"task": row["task"], "method": row["method"], **shown})
    for method in dict.fromkeys(row["method"] for row in rows):
        means = [np.mean(row["score"]) for row in rows if row["method"] == method]
        mean = {"score": f"{np.mean(means):.1f}", "ece": "", "uncalibrated": "", "runs": len(means)}
        lines.append({"task": "mean of all tasks", "method": method, **mean})
    return lines


if __name__ == "__main__":
    sys.exit(main())
