"""What EPIC loses where modalities are absent at test, trained with and without modality dropout.

Fits the fine-grained OpenMoji task as `epic-pl compare` does and reads `epic-pl test --report`. Of
those that lose a modality half lose the text, half the picture, nobody both:

    python benchmarks/absent.py --seeds 3 --json
"""

import argparse
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from epic_pl.cli import run
from epic_pl.experiments.compare.plan import Entry, parsed_options, plan
from epic_pl.experiments.compare.runner import Outcome
from openmoji import result_of, runs_kept, train

_WHOLE, _MOST = "as it is", "70% lack one"
_WITHOUT = "all that without dropout"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", default="openmoji.yaml")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dropout", default="0.8", help="probability to lose one in training")
    parser.add_argument(
        "--layers",
        default="[[4,2],[6,3],[8,4],[10,5]]",
        help="more interaction layers: the missing-aware head sees what enters each of them",
    )
    parser.add_argument("--image-size", type=int, default=168, help="of larger pictures, in pixels")
    parser.add_argument("--folder", type=Path, default=Path("runs/absent"), help="of all runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON at the end")
    arguments, overrides = parser.parse_known_args()
    shared = ["--config", arguments.config, *overrides]
    trainings = trainings_of(arguments.dropout, arguments.layers, arguments.image_size, shared)
    runs = plan(list(trainings), arguments.seeds, shared, arguments.folder)
    runs_kept(runs)
    ended = train(runs, arguments.jobs)
    rows = []
    for entry, title in trainings.items():
        each_seed = [accuracies(ended[each]) for each in runs if each.name == entry.name]
        for condition in each_seed[0]:
            values = [100 * each[condition] for each in each_seed]
            rows.append(
                {
                    "training": title,
                    "condition": condition,
                    "accuracy": float(np.mean(values)),
                    "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
                }
            )
    show(rows)
    if arguments.json:
        print(json.dumps(rows))


def trainings_of(
    dropout: str, layers: str, image_size: int, shared: Sequence[str]
) -> dict[Entry, str]:
    """What is trained, and its title."""
    drops = f"--model.modality_dropout={dropout}"
    aware = [drops, "--model.missing_aware_head=true"]
    # a complete sample is seen in a fifth of them, one without its text in two fifths
    epochs = 2 * parsed_options(shared)["trainer"]["max_epochs"]
    twice = [f"--trainer.max_epochs={epochs}", "--early_stopping.patience=1000"]
    # what names a lone picture is spread over more layers than what corrects a text
    more = [*twice, f"--model.interaction_layers={layers}"]
    larger = [*more, f"--model.image_size={image_size}"]
    options = {
        "as shipped": [],
        f"modality dropout {dropout}": [drops],
        "and a missing-aware head": aware,
        "and twice the epochs": [*aware, *twice],
        "and more interaction layers": [*aware, *more],
        # what dropout alone is worth: all else is the same
        _WITHOUT: [*aware[1:], *more],
        f"and pictures of {image_size} pixels": [*aware, *larger],
        f"{_WITHOUT}, of {image_size} pixels": [*aware[1:], *larger],
    }
    return {
        Entry(f"training_{number}", "epic", tuple(given)): title
        for number, (title, given) in enumerate(options.items())
    }


def accuracies(outcome: Outcome) -> dict[str, float]:
    """Test accuracy of one run by what is absent."""
    folder = outcome.run.folder / "report"
    options = [*outcome.run.options, f"--trainer.default_root_dir={outcome.run.folder}"]
    report = ["--report", str(folder), "--report.robustness=false"]
    run(["test", *options, "--ckpt_path", result_of(outcome)["best"], *report])
    content = json.loads((folder / "report.json").read_text())
    return {row["condition"]: row["accuracy"] for row in content["absence"]}


def show(rows: list[dict[str, Any]]) -> None:
    table = Table("trained", "absent at test", "accuracy %", "lost, in points", "below as shipped")
    whole: dict[str, float] = {}
    shipped = rows[0]["accuracy"]  # of complete samples
    for row in rows:
        before = whole.setdefault(row["training"], row["accuracy"])
        table.add_row(
            row["training"],
            row["condition"],
            f"{row['accuracy']:.1f} ± {row['std']:.1f}",
            f"{before - row['accuracy']:.1f}",
            f"{shipped - row['accuracy']:.1f}",
        )
    console = Console()
    console.print(table)
    lost = points_lost(rows)
    as_shipped = next(iter(lost.values()))
    for (title, dropping), (twin, without) in pairwise(lost.items()):
        if twin.startswith(_WITHOUT) and as_shipped > 0 and without > 0:
            console.print(
                f"{_MOST}: {title} loses {dropping:.1f} points, {dropping / as_shipped:.0%} of the "
                f"{as_shipped:.1f} lost as shipped, {dropping / without:.0%} of the {without:.1f} "
                "lost by the same training without dropout."
            )


def points_lost(rows: list[dict[str, Any]]) -> dict[str, float]:
    """What each training loses where most samples lack a modality, of its own accuracy."""
    accuracy = {(row["training"], row["condition"]): row["accuracy"] for row in rows}
    trainings = dict.fromkeys(row["training"] for row in rows)
    return {each: accuracy[each, _WHOLE] - accuracy[each, _MOST] for each in trainings}


if __name__ == "__main__":
    main()
