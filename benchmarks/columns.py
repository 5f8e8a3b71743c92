"""What the columns of a table add: with them, without, as words of the text, and alone.

A folder holds `table.csv` with the columns image (paths), text, label (several joined by |) and
numbers, dates and categories, whose kinds `data init` guesses. Each seed has splits of its own,
unless there is a column split. As words, numbers are ranges with equally many rows ("cost 3 of 8").
Trees are scikit-learn's boosted ones, on the columns alone, or beside 24 components of each
embedding. The same command continues.

    python benchmarks/columns.py FOLDER [FOLDER ...] --methods EPIC,LateFusionMLP --seeds 5
"""

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import average_precision_score

from classical import Floats, features
from common import build_parser, show
from epic_pl.data.inspection.init import write_config
from epic_pl.experiments.compare.plan import Variant, choose, plan
from epic_pl.experiments.compare.statistics import TESTED
from epic_pl.experiments.runs import Run
from epic_pl.experiments.training import store_features
from epic_pl.run.epic_cli import quiet_lightning
from folds import finish

KINDS = ("number_columns", "date_columns", "category_columns")
RANGES = 8
COMPONENTS = 24  # of each embedding
NAN = float("nan")


def main() -> int:
    parser = build_parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--methods", default="EPIC,LateFusionMLP")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ways", default="with,without,as_words,alone")
    parser.add_argument("--output", type=Path, default=Path("runs/columns"))
    arguments, options = parser.parse_known_args()
    rows: list[dict[str, Any]] = []
    for folder in arguments.folders:
        output = arguments.output.resolve() / folder.name
        config, given = prepare(folder.resolve(), output)
        splits = given["split_column"] is None
        shared = ["--config", str(config), *options]
        kinds = [kind for kind in KINDS if kind in given]
        variants = ways(choose(arguments.methods, []), kinds, arguments.ways.split(","))
        runs = plan(variants, arguments.seeds, shared, output, splits)
        store_features(runs)
        finish(runs)
        rows += [summary(folder.name, name, runs) for name in dict.fromkeys(r.name for r in runs)]
        found = [trees([*shared, *_own(run)]) for run in runs if run.name == runs[0].name]
        for way in found[0]:
            scores = [scores[way] for scores in found]
            rows.append({"table": folder.name, "way": way, **spread(scores)})
    show(rows, arguments.json)
    return 0


def prepare(folder: Path, output: Path) -> tuple[Path, dict[str, Any]]:
    """A config for the table, to which a text with all columns was added, and its data options."""
    output.mkdir(parents=True, exist_ok=True)
    named = {"image": "image", "text": "text", "label": "label", "force": True}
    made, _ = write_config(folder / "table.csv", output=output / "guessed.yaml", **named)
    content = yaml.safe_load(made.read_text())
    given = content["data"]["init_args"]
    with (folder / "table.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    names = [name for kind in KINDS for name in given.get(kind, ())]
    words = {name: _words(name, [row[name] for row in table]) for name in names}
    for number, row in enumerate(table):
        said = ", ".join(f"{name} {words[name][number]}" for name in names if words[name][number])
        row["with_columns"] = f"{row['text']}. {said}"
    path = output / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, table[0].keys())
        writer.writeheader()
        writer.writerows(table)
    given |= {"table": str(path), "image_root": given["image_root"] or str(folder)}
    made.write_text(yaml.safe_dump(content, sort_keys=False))
    return made, given


def _words(name: str, cells: list[str]) -> list[str]:
    """Cells as words: numbers by the range that they are in."""
    try:
        numbers = np.array([float(cell) if cell.strip() else np.nan for cell in cells])
    except ValueError:
        return cells
    edges = np.nanquantile(numbers, np.linspace(0, 1, RANGES + 1)[1:-1])
    places = np.searchsorted(edges, numbers) + 1
    return [
        f"{at} of {RANGES}" if at <= RANGES and cell.strip() else ""
        for at, cell in zip(places, cells, strict=True)
    ]


def ways(methods: list[Variant], kinds: list[str], chosen: list[str]) -> list[Variant]:
    """Each method with the columns, without, with them as words, and alone."""
    none = tuple(f"--data.{kind}=[]" for kind in kinds)
    found = []
    for each in methods:
        own = {
            "with": (),
            "without": none,
            "as_words": (*none, "--data.text_columns=with_columns", "--data.max_text_tokens=128"),
            "alone": ("--data.alone=columns",),
        }
        found += [Variant(f"{each.name}-{way}", each.method, own[way]) for way in chosen]
    return found


def _own(run: Run) -> list[str]:
    return [option for option in run.options if option.startswith("--data.split_seed")]


def summary(table: str, name: str, runs: list[Run]) -> dict[str, Any]:
    results = [run.result or {} for run in runs if run.name == name]
    metric = TESTED[results[0]["task"]][0]
    return {"table": table, "way": name, **spread([r["metrics"][metric] for r in results])}


def spread(scores: list[float]) -> dict[str, Any]:
    spread = f" ± {100 * np.std(scores, ddof=1):.1f}" if len(scores) > 1 else ""
    return {"score": f"{100 * np.mean(scores):.1f}{spread}", "runs": len(scores)}


def trees(options: list[str]) -> dict[str, float]:
    """Accuracy, or mean average precision, of boosted trees on the columns' numbers and codes.

    They are alone, or beside principal components of the pooled features of image and text.
    """
    with quiet_lightning():
        splits, data = features(options, epochs=1)
    known = data.column_preprocessing
    codes = {name: {v: i for i, v in enumerate(of)} for name, of in known.categories.items()}
    names = [*known.numbers, *known.categories]

    def columns(split: str) -> Floats:
        table = data.dataset(split).table
        ids, cells = table["sample_id"].to_pylist(), table["cells"].to_pylist()
        parsed = {each: known.parsed(own or {}) for each, own in zip(ids, cells, strict=True)}
        number = {n: codes[n].get if n in codes else lambda cell, _: cell for n in names}
        rows = [parsed[each] for each in splits[split].ids]
        return np.array([[number[n](p.get(n, NAN), NAN) for n in names] for p in rows], float)

    train, test = splits["train"], splits["test"]
    seen, unseen = columns("train"), columns("test")
    scores = {"trees, columns alone": boosted(seen, train.labels, unseen, test.labels)}
    both = [seen], [unseen]
    for side in ("image", "text"):
        of = PCA(min(COMPONENTS, len(seen)), random_state=0).fit(getattr(train, side))
        for parts, rows in zip(both, (train, test), strict=True):
            parts.append(of.transform(getattr(rows, side)))
    seen, unseen = map(np.hstack, both)
    return scores | {"trees, with components": boosted(seen, train.labels, unseen, test.labels)}


def boosted(seen: Floats, labels: Any, unseen: Floats, truth: Any) -> float:
    model = HistGradientBoostingClassifier(max_iter=100, learning_rate=0.05, random_state=0)
    if labels.ndim == 1:
        return float(np.mean(model.fit(seen, labels).predict(unseen) == truth))
    precisions = []
    for own, right in zip(labels.T, truth.T, strict=True):
        if right.any() and own.any():
            scores = model.fit(seen, own).predict_proba(unseen)[:, 1]
            precisions.append(average_precision_score(right, scores))
    return float(np.mean(precisions))


if __name__ == "__main__":
    sys.exit(main())
