"""The comparisons of docs/results.md on locked test splits: what `make evidence` does.

    python benchmarks/evidence.py [--tasks scenes,styles] [--seeds 5] [--tune 12] [--jobs 2]

Trains all methods on every task: each with the same parts of the head, options chosen by the same
number of trials on validation, and five seeds that move everything. Closed-form CCA stands beside
them. Each task gets a table with intervals over pictures and Holm's correction, and the opening of
its test split is a line in ledger.md, with date, commit, command and result. Finished runs are not
repeated: the same command continues after an interruption. A tree with changes that are not
committed is refused, since the ledger names the commit.
"""

import argparse
import datetime
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import cca
import tables
from epic_pl.config_files import find_packaged
from epic_pl.experiments.compare.comparison import Comparison
from epic_pl.experiments.compare.plan import Outcome, Run, choose, read_variants
from epic_pl.experiments.compare.report import show
from epic_pl.experiments.compare.results import Row
from epic_pl.experiments.files import write_json
from epic_pl.experiments.interruption import INTERRUPTED, terminated_as_interrupted

LEDGER = Path(__file__).with_name("ledger.md")
METHODS = "epic,no_interaction,no_prompts,late_fusion_mlp,linear_probe,variants"
OPENMOJI = ("scenes", "styles", "openmoji_entailment", "openmoji")
# statements are drawn anew every epoch: closed-form CCA takes those of some epochs
DRAWN = {"styles": 8, "openmoji_entailment": 8}
HEAD = ("--model.head.boundary=true", "--model.head.similarity=true")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tasks", default=",".join((*OPENMOJI, *tables.TABLES)))
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tune", type=int, default=12, help="trials of each method (%(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--ledger", type=Path, default=LEDGER)
    arguments, options = parser.parse_known_args()
    commit = clean_commit()
    try:
        with terminated_as_interrupted():
            for task in arguments.tasks.split(","):
                rows = compare(task, arguments, options)
                note(arguments.ledger, task, commit, rows)
    except KeyboardInterrupt:
        print("Interrupted: the same command continues with what is left.", file=sys.stderr)
        return INTERRUPTED
    return 0


def clean_commit() -> str:
    """The commit of the tree.

    Raises:
        SystemExit: if there are changes that are not committed.
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    # the ledger itself grows task by task
    if git("status", "--porcelain", "--", ":/", f":!{LEDGER.name}"):
        raise SystemExit("Commit or remove all changes first: the ledger names the commit.")
    return git("rev-parse", "--short=10", "HEAD")


def options_of(task: str, folder: Path) -> list[str]:
    """Options of ``fit`` for a task with its locked test split."""
    if task in OPENMOJI:
        return ["--config", f"{task}.yaml", *HEAD]
    if task not in tables.TABLES:
        raise SystemExit(f"No task {task}; there are: {', '.join((*OPENMOJI, *tables.TABLES))}.")
    config = tables.write(folder / "tables", task, locked=True)
    return ["--config", str(config), "--data.split_column=split", *HEAD]


def compare(task: str, arguments: argparse.Namespace, options: Sequence[str]) -> list[Row]:
    """Train, test and report all methods of a task, with CCA beside them."""
    shared = [*options_of(task, arguments.folder), *options]
    entries = choose(arguments.methods, read_variants(find_packaged("variants", "paper.yaml")))
    output = arguments.folder / task
    counts = {"seeds": arguments.seeds, "trials": arguments.tune, "jobs": arguments.jobs}
    comparison = Comparison(entries, shared, output, **counts)
    outcomes = comparison.execute()
    outcomes.append(closed_form(shared, output.resolve() / "runs" / "cca-0", DRAWN.get(task, 1)))
    rows = comparison.report(outcomes)
    show(rows, Console())
    return rows


def closed_form(options: list[str], folder: Path, epochs: int) -> Outcome:
    """CCA as a run of the comparison, done anew each time: it takes a minute."""
    found = cca.control(options, epochs, test=True)
    metrics = cca.test(found, folder / "predictions.parquet")
    result: dict[str, Any] = {"task": "multiclass", "metrics": metrics, "trainable": 0}
    result |= {"encoder_share": 0.0, "samples_per_s": None, "peak_memory_mb": None}
    result |= {"seconds": found.seconds, "cache_level": "layers", "torch": torch.__version__}
    result |= {"device": "cpu", "strength": found.strength}
    write_json(folder / "result.json", result)
    return Outcome(Run("cca", 0, tuple(options), folder), result=result)


def note(ledger: Path, task: str, commit: str, rows: Sequence[Row]) -> None:
    """Append the opening of a test split to the ledger."""
    main = rows[0]["metric"]
    scores = [
        f"{row['method']} {100 * row['mean']:.1f}"
        for row in rows
        if row["metric"] == main and row["mean"] is not None
    ]
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    command = shlex.join(["python", "benchmarks/evidence.py", *sys.argv[1:]])
    cells = [today, commit, task, f"`{command}`", f"{main}: {', '.join(scores)}"]
    with ledger.open("a", encoding="utf-8") as file:
        file.write(f"| {' | '.join(cells)} |\n")


if __name__ == "__main__":
    sys.exit(main())
