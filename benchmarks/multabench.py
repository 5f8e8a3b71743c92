"""EPIC and other methods on the tables of MulTaBench that have images, texts and classes.

    pip install multabench==0.1.1
    python benchmarks/multabench.py                      # multabench downloads the tables
    python benchmarks/multabench.py --data-dir FOLDER    # a copy, as its load_split reads it
    python benchmarks/multabench.py --tables MUL_IMAGE_PETFINDER --folds 0,1 --methods EPIC

MulTaBench (arXiv 2605.10616) gives rows, folds, sizes and scores. Validation rows are drawn from a
fold's training rows. All columns are read, by the kinds that multabench finds; dates of a time and
a day are read as days. There are six such tables; others that are named are skipped.

Errors are the mean over folds and their standard deviation. The rank is among the published models
on the same folds, which read frozen features of small encoders, or the raw texts. `results` and
`models` in the folder hold all results in the form of the published ones. Finished runs are not
repeated, so that the same command resumes. Other options go to epic-pl fit.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from sklearn.preprocessing import LabelEncoder

from common import build_parser, show
from epic_pl.data.inspection.init import write_config
from epic_pl.experiments.compare.plan import choose, plan
from epic_pl.experiments.runs import Run
from epic_pl.utils.files import write_json
from folds import finish

# the package has the name of this file, which hides it from programs that start here
_PATH = sys.path[:]
sys.path[:] = [each for each in _PATH if Path(each).resolve() != Path(__file__).resolve().parent]
from multabench.baselines.preprocessing.feature_types import detect_feature_types  # noqa: E402
from multabench.benchmark.collect import collect_results, write_model_csvs  # noqa: E402
from multabench.benchmark.runs import Run as Published  # noqa: E402

import multabench as bench  # noqa: E402

sys.path[:] = _PATH

_TABLES = {each.id.name: each for each in bench.list_datasets()}


@dataclass
class Fold:
    """A split of a table: the first ``trained`` rows are for training, ``truth`` is of the others.

    Attributes:
        number: number of the fold.
        task: multabench's kind of task.
        config: config of ``epic-pl fit``.
    """

    table: str
    number: int
    task: bench.SupervisedTask
    trained: int
    truth: np.ndarray
    config: Path


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, help="a copy of the tables; else downloaded")
    parser.add_argument("--tables", default=",".join(n for n in _TABLES if not left_out(n)))
    parser.add_argument("--methods", default="EPIC,LateFusionMLP,LinearProbe")
    parser.add_argument("--folds", default=",".join(map(str, range(bench.SPLITS))))
    parser.add_argument("--size", choices=[*map(str, bench.Size)], default=str(bench.DEFAULT_SIZE))
    parser.add_argument("--folder", type=Path, default=Path("runs/multabench"))
    arguments, options = parser.parse_known_args()
    runs: list[tuple[Fold, str, Run]] = []
    for fold in read_folds(arguments):
        shared = ["--config", str(fold.config), *options]
        for run in plan(choose(arguments.methods, []), 1, shared, fold.config.parent):
            shown = replace(run, name=f"{fold.table}, fold {fold.number}, {run.name}")
            runs.append((fold, run.name, shown))
    if not runs:
        raise SystemExit("No table is left to run on.")
    finish([run for *_, run in runs])
    rows = [judge(fold, method, run, arguments) for fold, method, run in runs]
    found = collect_results(str(arguments.folder / "results"))
    write_model_csvs(found, str(arguments.folder / "models"))
    show(rows if arguments.json else summary(rows), arguments.json)


def left_out(name: str) -> str:
    """Why methods of epic_pl cannot run on a table; empty if they can."""
    if (table := _TABLES.get(name)) is None:
        raise SystemExit(f"No table {name}: list_datasets() of multabench names all.")
    if table.modality != bench.Modality.IMAGE_TEXT:
        return f"it has no column of {'texts' if table.modality.has_images else 'images'}"
    return "it is of regression" if table.task == bench.SupervisedTask.REGRESSION else ""


def read_folds(arguments: argparse.Namespace) -> Iterator[Fold]:
    """Write the folds of all tables, as load_split gives them."""
    for name in arguments.tables.split(","):
        if reason := left_out(name):
            print(f"{name} is skipped: {reason}.", file=sys.stderr)
            continue
        for number in map(int, arguments.folds.split(",")):
            folder = arguments.folder / name / f"{arguments.size}-fold{number}"
            yield write_fold(name, number, arguments, folder)


def write_fold(name: str, number: int, arguments: argparse.Namespace, folder: Path) -> Fold:
    """Write a fold as a table, whose columns are named by their kind, and its config."""
    if number not in range(bench.SPLITS):
        raise SystemExit(f"No fold {number}; there are {bench.SPLITS}, from 0.")
    copy = arguments.data_dir and str(arguments.data_dir.resolve())
    try:
        split = bench.load_split(name, number, bench.Size(arguments.size), data_dir=copy)
    except FileNotFoundError as error:
        raise SystemExit(f"{error}, of which load_split of multabench reads {name}.") from None
    rows = pd.concat([split.x_train, split.x_test])
    found = detect_feature_types(rows, split.image_column)
    kinds = {
        "text": found.text_features,
        "number": found.numerical_features,
        "category": found.categorical_features,
        "date": found.date_features,
    }
    classes = LabelEncoder().fit(split.y_train)
    labels = [classes.transform(each) for each in (split.y_train, split.y_test)]
    columns = {"image": cells(rows[split.image_column], f"{split.image_folder}/")}
    for kind, names in kinds.items():
        of_kind = (rows[each] for each in rows if each in names)  # in the table's order
        columns |= {f"{kind}{place}": cells(each, kind=kind) for place, each in enumerate(of_kind)}
    columns["label"] = np.concatenate(labels)  # numbers, so that scores have the order of classes
    columns["split"] = ["train"] * len(labels[0]) + ["test"] * len(labels[1])
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "table.parquet")
    written = {kind: [each for each in columns if each.startswith(kind)] for kind in kinds}
    roles = {"image": "image", "text": written.pop("text"), "label": "label", "split": "split"}
    config, _ = write_config(folder, True, **roles)
    options = yaml.safe_load(config.read_text())
    options["data"]["init_args"] |= {f"{kind}_columns": names for kind, names in written.items()}
    config.write_text(yaml.safe_dump(options, sort_keys=False))
    return Fold(name, number, split.task_type, len(labels[0]), labels[1], config)


def cells(column: pd.Series, prefix: str = "", kind: str = "") -> pa.Array:
    """A column as strings, of numbers as such; what is missing stays so."""
    if kind == "number":
        return pa.array(column.astype(float), from_pandas=True)
    if kind == "date":
        column = column.dt.date
    return pa.array([None if pd.isna(each) else f"{prefix}{each}" for each in column], pa.string())


def judge(fold: Fold, method: str, run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """The benchmark's score of a run, which is also written in its form."""
    table = pq.read_table(run.folder / "predictions.parquet")
    rows = np.array(table["sample_id"].to_pylist(), int) - fold.trained
    if sorted(rows) != [*range(len(fold.truth))]:
        raise SystemExit(f"{run.name}: test rows are missing, but each must be scored.")
    count = sum(each.startswith("probability_") for each in table.column_names)
    classes = [table[f"probability_{each}"].to_numpy() for each in range(count)]
    scored = bench.score(fold.task, fold.truth[rows], np.stack(classes, axis=1))
    # the benchmark names no encoder of a model that reads images and texts itself
    published = Published(method, fold.table, None, None, bench.Size(arguments.size), fold.number)
    found = {**vars(published), "status": "ok", **vars(scored)}
    found |= {"n_train": fold.trained, "n_test": len(fold.truth)}
    (arguments.folder / "results").mkdir(exist_ok=True)
    write_json(arguments.folder / "results" / f"{published.name}.json", found)
    return found


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The error of each method on each table, and its rank among the published models."""
    published = bench.load_published_results(rows[0]["size"]).query("status == 'ok'")
    lines = []
    for (table, method), runs in pd.DataFrame(rows).groupby(["dataset", "model"], sort=False):
        same = published[(published.dataset == table) & published.fold.isin(runs.fold)]
        others = same.groupby("model").test_error.agg(["mean", "size"])
        others = others[others["size"] == len(runs)]["mean"]
        error = runs.test_error.mean()
        spread = f" ± {runs.test_error.std():.3f}" if len(runs) > 1 else ""
        rank = f"{1 + (others < error).sum()} of {1 + len(others)}" if len(others) else ""
        line = {"table": table, "method": method, "folds": len(runs), "metric": runs.metric.iloc[0]}
        lines.append(line | {"test_error": f"{error:.3f}{spread}", "rank": rank})
    return lines


if __name__ == "__main__":
    main()
