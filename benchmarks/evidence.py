"""The comparisons of docs/results.md: what `make evidence` does.

    python benchmarks/evidence.py [--tasks scenes,icons,FOLDER] [--seeds 5] [--tune 0]

On every task each method has the same parts of the head, and five seeds that move everything. With
--tune, options that the same number of trials has chosen on validation come on top; the tables take
what was chosen on openmoji: benchmarks/evidence/chosen keeps it. Logistic regression, closed-form
CCA and the late-fusion network on each modality alone are included as controls, with columns
boosted trees, too. A task may be a folder with a table of one's own: `table.csv` with image, text,
label and split, in this order, then columns. Of scenes, accuracy_both_relations is the share of
images of which both orders of a pair are classified correctly. The likelihood is the geometric mean
of the probabilities of the truth.
Each task gets a table with intervals over images and Holm's correction in benchmarks/evidence/.
Opening a test split is a line in ledger.md, with date, commit, command and result. Finished runs of
the same sources are not repeated: the same command continues after an interruption. A tree with
changes that are not committed is refused, since the ledger names the commit.
"""

import argparse
import datetime
import hashlib
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

import classical
import tables
from epic_pl.experiments.compare.plan import Variant, add_alone, choose, plan, tuned
from epic_pl.experiments.compare.results import COSTS
from epic_pl.experiments.compare.summary import show, write_comparison
from epic_pl.experiments.runs import Run, execute
from epic_pl.experiments.training import store_features, train_and_test
from epic_pl.utils.files import try_read_json, write_json, write_text

FOLDER = Path(__file__).parent
METHODS = "EPIC,controls.messages.NoMessages,NoInteraction,Parts,LateFusionMLP,LinearProbe,Ensemble"
ALONE = "LateFusionMLP"  # the control on one modality: what a second one adds is seen beside it
# scenes that no choice was made on: --data.scene_seed 0 is for development, 2028 to 2030 are opened
SCENES, LOCKED = "scenes", "--data.scene_seed=2031"
# tables of the same images, with the options that were chosen on it: a search for each would take
# longer than all the rest
CHOSEN_ON = dict.fromkeys(tables.TABLES, "openmoji")
DEVELOPMENT = ("openmoji_entailment", "openmoji", *tables.TABLES)
DRAWN = 8  # epochs of statements for closed-form CCA where they are drawn anew every epoch
# the same parts and rate for all methods where the config of one task differs
START = ("--model.head.boundary=true", "--model.head.similarity=true")
START += ("--model.optim.prompt_lr=1e-3",)
# what results follow from: other code, such as that of servers, changes none
SOURCES = [f"src/epic_pl/{name}" for name in ("data", "experiments", "features", "module", "nn")]
SOURCES += ["src/epic_pl/cli/configs", "benchmarks/classical.py", "benchmarks/tables.py"]
_OPENED = "opened, not finished"
_PREFIX = "probability_"  # of columns of predictions
_LEAST = 1e-7  # a probability that float32 rounds to zero or one


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tasks", default=",".join((SCENES, *DEVELOPMENT)))
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tune", type=int, default=0, help="trials of each method (%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--records", type=Path, default=FOLDER, help="of ledger.md and evidence/")
    arguments, options = parser.parse_known_args()
    ledger = arguments.records / "ledger.md"
    command = shlex.join(["python", "benchmarks/evidence.py", *sys.argv[1:]])
    try:
        for task in arguments.tasks.split(","):
            commit, sources = clean_commit()
            key = f"{commit} | {task} | `{command}`"
            write_line(ledger, key, _OPENED)
            output = arguments.folder / sources / Path(task).name
            scores = compare(task, output, sources, arguments, options)
            if clean_commit()[1] != sources:
                raise SystemExit("The sources have changed meanwhile: run it again.")
            write_line(ledger, key, scores)
            for suffix in ("md", "json"):
                kept = arguments.records / "evidence" / f"{output.name}.{suffix}"
                kept.parent.mkdir(exist_ok=True)
                kept.write_text((output / f"comparison.{suffix}").read_text())
    except KeyboardInterrupt:
        print("Interrupted: the same command continues with what is left.", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def clean_commit() -> tuple[str, str]:
    """The commit of the tree, and a hash of all that its results follow from.

    Raises:
        SystemExit: if there are changes that are not committed.
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(FOLDER), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    written = (f":(top,exclude)benchmarks/{name}" for name in ("ledger.md", "evidence"))
    if git("status", "--porcelain", "--", ":/", *written):
        raise SystemExit("Commit or remove all changes first: the ledger names the commit.")
    hashes = "".join(git("rev-parse", f"HEAD:{file}") for file in SOURCES)
    return git("rev-parse", "--short=10", "HEAD"), hashlib.sha256(hashes.encode()).hexdigest()[:10]


def options_of(task: str, folder: Path) -> list[str]:
    """Options of ``fit`` for a task, its test split included."""
    if task == SCENES:
        config = os.path.relpath(FOLDER / "controls" / "scenes.yaml")
        return ["--config", config, LOCKED]
    if task not in DEVELOPMENT and not Path(task).is_dir():
        known = ", ".join((SCENES, *DEVELOPMENT))
        raise SystemExit(f"No task {task}; there are: {known}, and folders with a table.csv.")
    if task in DEVELOPMENT and task not in tables.TABLES:
        return ["--config", f"{task}.yaml", *START]
    config = tables.write(folder / "tables", task, locked=True)
    return ["--config", str(config), *START]


def compare(
    task: str, output: Path, sources: str, arguments: argparse.Namespace, options: Sequence[str]
) -> str:
    """Train, test and report all methods of a task; returns the scores as text."""
    shared = [*options_of(task, output.parent), *options]
    variants = choose(arguments.methods, [])
    if ALONE in arguments.methods.split(","):
        variants = add_alone(variants, ALONE, shared)
    if any(each.name == f"{ALONE}-columns" for each in variants):
        variants += choose("Trees", [])
    source = CHOSEN_ON.get(task, task)
    record = arguments.records / "evidence" / "chosen" / f"{Path(source).name}.json"
    variants = chosen(source, variants, output, record, sources, arguments.tune, options)
    named = "; ".join(f"`{each.name}` `{' '.join(each.chosen)}`" for each in variants)
    notes = f" Chosen by {arguments.tune} trials on validation of {source}: {named}."
    notes = notes if arguments.tune else " Nothing is tuned."
    if task in DEVELOPMENT:
        notes += " A development set: options were chosen on its rows."
    runs = plan(variants, arguments.seeds, shared, output)
    store_features(runs)
    given = {"folder": output, "notes": f"Options: `{' '.join(shared)}`.{notes}"}
    report = partial(write_comparison, reference=variants[0].name, **given)
    execute(runs, train_and_test, lambda: report(runs))
    if missing := [str(run) for run in runs if run.result is None]:
        raise SystemExit(f"Not all runs of {task} have finished: {missing[0]}")
    epochs = DRAWN if task == "openmoji_entailment" else 1
    runs += classical_runs(shared, output.resolve() / "runs", epochs)
    for run in runs:
        add_scores(run)
    rows = report(runs)
    show(rows)
    main_rows = [row for row in rows if row["metric"] == rows[0]["metric"]]
    scores = (f"{row['method']} {100 * row['mean']:.1f}" for row in main_rows)
    return f"{rows[0]['metric']}: {', '.join(scores)}"


def chosen(
    task: str,
    variants: list[Variant],
    output: Path,
    record: Path,
    sources: str,
    trials: int,
    options: Sequence[str],
) -> list[Variant]:
    """The variants with the options that trials on a task choose.

    What the record has of the same sources and number of trials is not searched again.
    """
    kept = try_read_json(record) or {}
    if kept.get("sources") != sources or kept.get("trials") != trials:
        kept = {"sources": sources, "trials": trials, "chosen": {}}
    if wanted := [each for each in variants if each.name not in kept["chosen"]]:
        folder = output.with_name(Path(task).name)
        shared = [*options_of(task, folder.parent), *options]
        found = tuned(wanted, shared, folder, trials) if trials else wanted
        kept["chosen"] |= {each.name: each.chosen for each in found}
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json(record, kept)
    return [replace(each, chosen=tuple(kept["chosen"][each.name])) for each in variants]


def add_scores(run: Run) -> None:
    """Add the likelihood of a test, and of scenes the share of images told right in all relations.

    The likelihood is the geometric mean of the probabilities that were given to the truth.
    """
    assert run.result is not None
    table = pq.read_table(run.folder / "predictions.parquet").to_pydict()
    right: dict[str, list[bool]] = {}
    columns = (table[name] for name in ("sample_id", "image_path", "truth"))
    for number, (name, image, truth) in enumerate(zip(*columns, strict=True)):
        if name.endswith("-relation"):
            answer = table["probability_true"][number] > table["probability_false"][number]
            right.setdefault(image, []).append(answer == (truth == "true"))
    if right:
        share = sum(map(all, right.values())) / len(right)
        run.result["metrics"]["accuracy_both_relations"] = share
    run.result["metrics"]["likelihood"] = likelihood(table)


def likelihood(table: dict[str, list[Any]]) -> float:
    """The geometric mean of the probabilities of the truth, in a table of predictions.

    With several labels a row has a probability of each label, that it is there or that it is not.
    """
    scores = {name.removeprefix(_PREFIX): table[name] for name in table if name.startswith(_PREFIX)}
    given = []
    for row, truth in enumerate(table["truth"]):
        if isinstance(truth, str):
            given.append(scores[truth][row])
        else:
            given += [p[row] if name in truth else 1 - p[row] for name, p in scores.items()]
    return float(np.exp(np.log(np.clip(given, _LEAST, 1)).mean()))


def classical_runs(options: list[str], folder: Path, epochs: int) -> list[Run]:
    """The classical controls as runs of the comparison."""
    costs = dict.fromkeys(COSTS) | {"trainable": 0, "encoder_share": 0.0, "cache_level": "layers"}
    costs |= {"device": "cpu", "torch": torch.__version__}
    runs = []
    for name in classical.METHODS:
        output = folder / f"{name}-0"
        if (result := classical.evaluate(name, options, output, epochs)) is not None:
            runs.append(Run(name, 0, tuple(options), output, costs | result))
    return runs


def write_line(ledger: Path, key: str, result: str) -> None:
    """Note in the ledger that a test split is opened, or what came out, a line for each key."""
    lines = ledger.read_text(encoding="utf-8").splitlines()
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    kept = [line for line in lines if f"| {key} |" not in line]
    write_text(ledger, "\n".join([*kept, f"| {today} | {key} | {result} |", ""]))


if __name__ == "__main__":
    sys.exit(main())
