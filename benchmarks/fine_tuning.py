"""EPIC beside other fine-tuning: scores of held-out rows against seconds of processor.

All strategies train on the same rows with the same parts of the head. A budget is a multiple of
what EPIC takes with the config's schedule; a run trains as many whole epochs as fit, at least one,
and its cosine schedule ends with them. What takes less than EPIC has the config's schedule. Three
learning rates of each strategy are compared on validation rows, in runs of a third of EPIC's time.
Seconds are of one thread. They count the storing of features: what reads stored features is charged
what storing took for EPIC.

    python benchmarks/fine_tuning.py                                      # days on two cores
    python benchmarks/fine_tuning.py --tasks one_word,FOLDER --folds 0 --choose-on one_word
    python benchmarks/fine_tuning.py --only-show --figure docs/images/accuracy_over_seconds.svg

Tasks are those of `folds.py`: no test split is read. Each run has a process of its own; the same
command continues after a kill. Other options go to `fit`.
"""

import argparse
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from common import build_parser, show
from epic_pl.experiments.compare.statistics import (
    TESTED,
    Floats,
    Predictions,
    bootstrap,
    holm,
    paired_difference,
)
from epic_pl.experiments.options import ONE_DEVICE, feature_cache, use_stored_features
from epic_pl.experiments.runs import Run, in_new_process
from epic_pl.experiments.training import train_and_test
from epic_pl.run.epic_cli import build_data, parse
from epic_pl.utils.files import try_read_json, write_json
from folds import options_of

EPIC, RATES = "EPIC", "rates.json"
LONGEST = 4  # times the config's epochs
CHOICE = 1 / 3  # of the budget of 1, for a run that compares learning rates
PILOT_STEPS = 12
DRAWS = 1000
Row = dict[str, Any]


class Strategy(NamedTuple):
    """A method with its options; the first of the learning rates is the usual one."""

    method: str
    rate: str
    rates: tuple[float, ...]
    options: tuple[str, ...] = ()
    own: bool = False
    """Whether it trains for the config's number of epochs alone: it takes less than EPIC."""


_PROMPTS, _ENCODER = "model.optim.prompt_lr", "model.method.encoder_lr"
_OF_PROMPTS, _OF_RIVALS = (_PROMPTS, (1e-3, 3e-4, 3e-3)), (_PROMPTS, (3e-3, 1e-3, 1e-2))
_OF_HEAD = "LateFusionMLP", "model.optim.lr", (1.5e-3, 5e-4, 5e-3)
_OF_LAYERS = "controls.last_layers.LastLayers", _ENCODER, (1e-4, 3e-5, 3e-4)
# layers that run with a gradient are faster so, where the processor multiplies bfloat16
_MIXED = ("--trainer.precision=bf16-mixed",)
_JOINT = ("--model.method.prompt_attention=joint", "--model.method.interaction_layers=4", *_MIXED)
_HEAD = (f"--model.head.{part}" for part in ("boundary=true", "similarity=true", "network=wide"))
STRATEGIES = {
    EPIC: Strategy("EPIC", *_OF_PROMPTS),
    "EPIC_joint": Strategy("EPIC", *_OF_PROMPTS, _JOINT),
    "EPIC_paper": Strategy("EPIC", *_OF_PROMPTS, ("--config=paper.yaml", *_HEAD, *_MIXED)),
    "Parts": Strategy("Parts", *_OF_PROMPTS, own=True),
    "LateFusionMLP": Strategy(*_OF_HEAD, own=True),
    "text_alone": Strategy(*_OF_HEAD, ("--data.alone=text",), True),
    "image_alone": Strategy(*_OF_HEAD, ("--data.alone=image",), True),
    "LastLayers": Strategy(*_OF_LAYERS, _MIXED),
    "LastLayers_1": Strategy(*_OF_LAYERS, ("--model.method.interaction_layers=1", *_MIXED)),
    "PMF": Strategy("PMF", *_OF_RIVALS, _MIXED),
    "MaPLe": Strategy("MaPLe", *_OF_RIVALS, _MIXED),
    "LoRA": Strategy("LoRA", _ENCODER, (5e-4, 1.5e-4, 1.5e-3), _MIXED),
    "FullFineTuning": Strategy("FullFineTuning", _ENCODER, (2e-5, 6e-6, 6e-5), _MIXED),
}


class Place:
    """A fold of a task, with the options of all its runs.

    Attributes:
        rows: number of training rows.
        epochs: those of the config.
    """

    def __init__(self, task: str, fold: int, given: argparse.Namespace, more: list[str]) -> None:
        folder = given.folder.resolve() / Path(task).name
        self.folder = folder / f"fold{fold}"
        options = (*options_of(task, fold, given), *more, *ONE_DEVICE)
        self.shared = (*options, f"--cache.folder={folder}/features")
        self.epochs = int(parse(["fit", *self.shared]).config["trainer"]["max_epochs"])
        data = build_data(self.shared)
        data.prepare_data()
        data.setup("fit")
        self.rows = len(data.dataset("train"))

    def run(
        self, name: str, epochs: int, rate: float | None = None, seed: int = 0, kind: str = ""
    ) -> Run:
        """A run of a strategy, at its usual rate if none is given."""
        rate = STRATEGIES[name].rates[0] if rate is None else rate
        own = f"--trainer.max_epochs={epochs}", f"--{STRATEGIES[name].rate}={rate}"
        options = *own, f"--seed_everything={seed}"
        return self._run(name, f"{kind}{epochs}-{rate:g}-{seed}", *options, seed=seed)

    def pilot(self, name: str) -> Run:
        """A few steps of a strategy, which tell how long an epoch takes."""
        limits = {"train": PILOT_STEPS, "val": 2, "test": 1}
        options = (f"--trainer.limit_{split}_batches={n}" for split, n in limits.items())
        return self._run(name, "pilot", "--trainer.max_epochs=1", *options)

    def storing(self) -> Run:
        """The storing of EPIC's features."""
        return self._run(EPIC, "storing")

    def _run(self, name: str, kind: str, *own: str, seed: int = 0) -> Run:
        method = f"--model.method={STRATEGIES[name].method}"
        options = (*self.shared, method, *STRATEGIES[name].options, *own)
        folder = self.folder / f"{name}-{kind}"
        result = try_read_json(folder / "result.json")
        if result and result["options"] != [*options]:
            raise SystemExit(f"{folder} is of a run with other options: give another --folder.")
        return Run(name, seed, options, folder, result)


def main() -> int:
    parser = build_parser(__doc__)
    parser.add_argument("--tasks", default="one_word,icons,openmoji")
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--folds", default="0,1,2")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--budgets", default="1,3,10", help="times EPIC's seconds (%(default)s)")
    parser.add_argument("--choose-on", help="task that chooses the rates of all; else each its own")
    parser.add_argument("--draw", type=int, default=0, help="seed of the tables' texts and labels")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--folder", type=Path, default=Path("runs/fine_tuning"))
    parser.add_argument("--only-show", action="store_true", help="train nothing")
    parser.add_argument("--figure", type=Path, help="file to draw the curves in")
    arguments, options = parser.parse_known_args()
    try:
        if not arguments.only_show:
            measure(arguments, options)
    except KeyboardInterrupt:
        print("Interrupted: the same command continues with what is left.", file=sys.stderr)
        return 128 + signal.SIGINT
    asked = [Path(task).name for task in arguments.tasks.split(",")]
    rows = [row for row in finished(arguments.folder) if row["task"] in asked]
    if arguments.figure:
        draw(rows, arguments.figure)
    show(rows if arguments.json else summary(rows), arguments.json)
    return 0


def measure(arguments: argparse.Namespace, options: list[str]) -> None:
    """Train what is not finished, in an order in which each run finds what it follows from."""
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    folds = [int(fold) for fold in arguments.folds.split(",")]
    names = list(dict.fromkeys((EPIC, *arguments.strategies.split(","))))
    budgets = [float(budget) for budget in arguments.budgets.split(",")]
    tasks, chooser = arguments.tasks.split(","), arguments.choose_on
    places = {task: [Place(task, fold, arguments, options) for fold in folds] for task in tasks}
    firsts = {task: of_task[0] for task, of_task in places.items()}
    if chooser and chooser not in firsts:
        firsts[chooser] = Place(chooser, folds[0], arguments, options)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        finish(pool, [place.storing() for place in firsts.values()], store)
        finish(pool, [place.run(EPIC, place.epochs) for place in firsts.values()])
        tried = [name for name in names if not STRATEGIES[name].own]
        finish(pool, [place.pilot(name) for place in firsts.values() for name in tried])
        searches: dict[tuple[str, str], list[Run]] = {}
        for task, name in product([chooser] if chooser else tasks, names):
            place, epochs = firsts[task], affordable(firsts[task], name, CHOICE)
            rates = STRATEGIES[name].rates
            kind = "" if STRATEGIES[name].own else "choice-"
            searches[task, name] = [place.run(name, epochs, rate, kind=kind) for rate in rates]
        finish(pool, [run for search in searches.values() for run in search])
        runs, chosen = [], read_rates(arguments.folder)
        for task, name in product(tasks, names):
            rate = best_rate(name, [result_of(run) for run in searches[chooser or task, name]])
            chosen.setdefault(Path(task).name, {})[name] = rate
            numbers = sorted({affordable(firsts[task], name, budget) for budget in budgets})
            for seed, epochs in product(range(arguments.seeds), numbers):
                runs += [place.run(name, epochs, rate, seed) for place in places[task]]
        write_json(arguments.folder / RATES, chosen)
        finish(pool, runs)


def finish(pool: ThreadPoolExecutor, runs: Sequence[Run], work: Any = None) -> None:
    """Do those of the runs that have no result, some at a time.

    Raises:
        SystemExit: if a run has failed.
    """
    pending = {run.folder: run for run in runs if run.result is None}
    started = [pool.submit(in_new_process, run, work or train) for run in pending.values()]
    try:
        for number, (run, future) in enumerate(zip(pending.values(), started, strict=True), 1):
            future.result()
            place = "/".join(run.folder.parts[-3:])
            print(f"{number} of {len(pending)}: {place}: {run}", file=sys.stderr, flush=True)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    if failed := [run for run in pending.values() if run.failure]:
        raise SystemExit(f"{len(failed)} runs have failed: the lines above say why.")


def result_of(run: Run) -> Row:
    """The result of a run that has finished, also of one that another line of the plan did."""
    result = try_read_json(run.folder / "result.json")
    assert result is not None, run.folder
    return result


def validation(result: Row) -> float:
    return float(result["validation"][TESTED[result["task"]][0]])


def best_rate(name: str, results: Sequence[Row]) -> float:
    """That of the learning rates of a strategy whose run has the best validation score."""
    scores = [validation(result) for result in results]
    return STRATEGIES[name].rates[scores.index(max(scores))]


def affordable(place: Place, name: str, budget: float) -> int:
    """The number of epochs that a strategy makes of a budget, at least 1."""
    if STRATEGIES[name].own or (name, budget) == (EPIC, 1):
        return place.epochs
    needed = place.pilot(name), place.storing(), place.run(EPIC, place.epochs)
    pilot, storing, epic = map(result_of, needed)
    stored = storing["processor_s"]
    left = budget * (epic["processor_s"] + stored) - stored * (pilot["cache_level"] != "off")
    # the meter's seconds are of the wall
    per_s = pilot["samples_per_s"] * pilot["seconds"] / pilot["processor_s"]
    return min(max(1, round(left * per_s / place.rows)), LONGEST * place.epochs)


def store(options: Sequence[str], folder: Path) -> Row:
    """Store the features of training and validation rows."""
    module, data, trainer = built = parse(["fit", *options]).build()
    use_stored_features(built)
    start = time.process_time()
    feature_cache(trainer).build_stores(trainer, module, data)
    return {"processor_s": time.process_time() - start}


def train(options: Sequence[str], folder: Path) -> Row:
    """Train and test; a killed run starts anew, since the seconds of its first part are lost."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    result = train_and_test(options, folder)
    shutil.rmtree(folder / "checkpoints")  # as large as the encoders, if these are trained
    return result


def read_rates(folder: Path) -> dict[str, dict[str, float]]:
    """The learning rate of each strategy on each task that validation rows have chosen so far."""
    return try_read_json(folder / RATES) or {}


def finished(folder: Path) -> list[Row]:
    """A row for each finished run at the rate that validation chose; seconds include storing."""
    rows, chosen = [], read_rates(folder)
    for path in sorted(folder.glob("*/fold*/*/result.json")):
        if re.search("-(choice-|pilot$|storing$)", path.parent.name):
            continue
        result, task = try_read_json(path) or {}, path.parents[2]
        if result["name"] not in STRATEGIES:
            continue
        (storing, *_) = sorted(task.glob(f"fold*/{EPIC}-storing/result.json"))
        stored = (try_read_json(storing) or {})["processor_s"] * (result["cache_level"] != "off")
        options = dict(each.removeprefix("--").partition("=")[::2] for each in result["options"])
        name, metric = result["name"], TESTED[result["task"]][0]
        rate = float(options[STRATEGIES[name].rate])
        row = {"task": task.name, "strategy": name, "epochs": result["epochs"], "rate": rate}
        row |= {"fold": path.parents[1].name, "seed": int(options["seed_everything"])}
        row |= {"metric": metric, "score": 100 * result["metrics"][metric]}
        row |= {"validation": 100 * validation(result), "seconds": result["processor_s"] + stored}
        row |= {"memory_mb": result["peak_memory_mb"], "trained": result["trainable"]}
        if rate == chosen.get(task.name, {}).get(name):
            rows.append(row | {"folder": str(path.parent)})
    return rows


def summary(rows: Sequence[Row]) -> list[Row]:
    """Means over folds and seeds; the difference is from EPIC with the config's epochs.

    Intervals are over images, p has Holm's correction for the lines of a task.
    """
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        curves = grouped(rows, task)
        reference = min(key for key in curves if key[0] == EPIC)
        epic = curves[reference]
        tests = {key: difference(curves[key], epic) for key in curves.keys() - {reference}}
        corrected = holm([test["p_value"] for test in tests.values()])
        corrected = dict(zip(tests, corrected, strict=True))
        for key, group in curves.items():
            scores = [row["score"] for row in group]
            spread = f" ± {np.std(scores, ddof=1):.1f}" if len(scores) > 1 else ""
            line = {"task": task, "strategy": key[0], "epochs": key[1], "runs": len(group)}
            line |= {"rate": group[0]["rate"], "seconds": f"{mean(group, 'seconds'):,.0f}"}
            line["times EPIC"] = f"{mean(group, 'seconds') / mean(epic, 'seconds'):.1f}"
            line["MB"] = f"{mean(group, 'memory_mb'):,.0f}"
            line["trained"] = f"{group[0]['trained'] / 1000:,.0f} k"
            line |= {"metric": group[0]["metric"], "score": f"{np.mean(scores):.1f}{spread}"}
            line |= {"over EPIC": "", "p": ""}
            if test := tests.get(key):
                low, middle, high = (100 * test[name] for name in ("low", "difference", "high"))
                line["over EPIC"] = f"{middle:+.1f} ({low:+.1f} to {high:+.1f})"
                line["p"] = f"{corrected[key]:.3f}"
            lines.append(line)
    return lines


def grouped(rows: Sequence[Row], task: str) -> dict[tuple[str, int], list[Row]]:
    """The runs of a task by strategy and epochs, in the order of the strategies."""
    curves: dict[tuple[str, int], list[Row]] = {}
    order = list(STRATEGIES)
    for row in sorted(rows, key=lambda row: (order.index(row["strategy"]), row["epochs"])):
        if row["task"] == task:
            curves.setdefault((row["strategy"], row["epochs"]), []).append(row)
    return curves


def difference(group: Sequence[Row], epic: Sequence[Row]) -> dict[str, float]:
    """The mean difference of runs from those of EPIC on the same folds, with its interval."""
    folds = {row["fold"] for row in group}
    own, other = (
        [drawn(row["folder"], row["metric"]) for row in each if row["fold"] in folds]
        for each in (group, epic)
    )
    return paired_difference(own, other)


@cache
def drawn(folder: str, metric: str) -> Floats:
    """The metric of a run on all its rows, then on draws, which are the same for all of a fold."""
    run = Predictions.read(Path(folder) / "predictions.parquet")
    (found,) = bootstrap([run], (metric,), list(dict.fromkeys(run.groups)), DRAWS)
    return found[metric]


def mean(rows: Sequence[Row], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def draw(rows: Sequence[Row], path: Path) -> None:
    """Scores against seconds, a panel for each task; legible on light and on dark pages."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    columns = 2 if len(tasks) in (2, 4) else min(len(tasks), 3)
    lines = -(-len(tasks) // columns)
    grey, colours = "#808080", colormaps["tab10"].colors  # type: ignore[attr-defined]
    parts = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style = {"svg.fonttype": "none", "svg.hashsalt": "", **dict.fromkeys(parts, grey)}
    style["font.size"] = 9
    with rc_context(style):
        figure = Figure(figsize=(4 * columns, 2.6 * lines + 0.8), layout="constrained")
        panels, shown = figure.subplots(lines, columns, squeeze=False).flat, {}
        for task, panel in zip(tasks, panels, strict=False):
            curves = grouped(rows, task)
            alone = [mean(group, "score") for key, group in curves.items() if "alone" in key[0]]
            style = {"color": grey, "linestyle": "--", "linewidth": 1}
            for score in sorted(alone)[-1:]:
                shown["better modality alone"] = panel.axhline(score, **style)
            names = [name for name in STRATEGIES if "alone" not in name]
            for name, colour in zip(names, colours, strict=False):
                groups = [group for key, group in curves.items() if key[0] == name]
                points = sorted((mean(each, "seconds"), mean(each, "score")) for each in groups)
                if points:
                    style = {"color": colour, "marker": "o", "linewidth": 1, "markersize": 5}
                    style |= {"linewidth": 2.5, "markersize": 9} if name == EPIC else {}
                    (shown[name],) = panel.plot(*zip(*points, strict=True), **style)
            (metric,) = {each["metric"] for group in curves.values() for each in group}
            metric = {"map": "mean average precision"}.get(metric, metric)
            panel.set(title=task.replace("_", " "), xscale="log", xlabel="processor seconds")
            panel.set(ylabel=metric)
            panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
            panel.xaxis.set_major_formatter("{x:g}")
            panel.xaxis.set_minor_locator(NullLocator())
            panel.spines[["top", "right"]].set_visible(False)
        for panel in panels:
            panel.set_visible(False)
        figure.legend(shown.values(), shown, loc="outside lower center", ncols=4, frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        dated = {"Date": None} if path.suffix == ".svg" else None  # the same rows, the same file
        figure.savefig(path, transparent=True, metadata=dated)


if __name__ == "__main__":
    sys.exit(main())
