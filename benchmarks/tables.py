"""Tables that no default was chosen on: `epic-pl data init`, then EPIC beside a linear probe.

Writes CSV files of OpenMoji pictures with texts and labels of other kinds than the demo's, lets
`data init` guess a config for each, and compares both methods on three cuts of the rows as
`epic-pl compare --splits` does. Beside them stands scikit-learn's probe on the encoders' pooled
outputs, whose strength is chosen on validation:

    python benchmarks/tables.py --jobs 2 --json

Defaults were chosen on other draws (`--draw 11`, `--draw 12`).
"""

import argparse
import csv
import json
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from epic_pl.assets import OPENMOJI_ATTRIBUTION, Emoji, fetch_openmoji, load_emoji
from epic_pl.cli import run
from epic_pl.data.datasets.openmoji import LEFT_OUT, MIN_EXAMPLES
from epic_pl.experiments.compare.command import compare_command
from epic_pl.inspection.init import write_config
from openmoji import BuiltCLI, baselines

_SIZE = 112

Row = tuple[str, str, str]
"""Code point, text and label."""


def one_word(emoji: list[Emoji], draw: random.Random) -> list[Row]:
    """One of nine categories from the picture and a single word of its name."""
    return [(each.code, draw.choice(each.name.split()), each.category) for each in emoji]


def noisy_titles(emoji: list[Emoji], draw: random.Random) -> list[Row]:
    """Subcategories, where words are missing and one title in five is another emoji's."""
    rows = []
    for each in frequent(emoji):
        titled = draw.choice(emoji) if draw.random() < 0.2 else each
        words = titled.name.split()
        kept = [word for word in words if draw.random() < 0.6] or [draw.choice(words)]
        rows.append((each.code, " ".join(kept), each.subcategory))
    return rows


def empty_cells(emoji: list[Emoji], draw: random.Random) -> list[Row]:
    """Categories of 1,200 emoji, where two texts in five are missing."""
    drawn = draw.sample(emoji, 1200)
    return [(each.code, "" if draw.random() < 0.4 else each.name, each.category) for each in drawn]


def agreement(emoji: list[Emoji], draw: random.Random) -> list[Row]:
    """Whether the text is the picture's name, or one of another category."""
    rows = []
    for each in emoji:
        others = [other for other in draw.sample(emoji, 60) if other.category != each.category]
        true = draw.random() < 0.5
        rows.append((each.code, (each if true else others[0]).name, "yes" if true else "no"))
    return rows


def frequent(emoji: list[Emoji]) -> list[Emoji]:
    """Those of subcategories with enough examples."""
    subcategories = [each.subcategory for each in emoji]
    return [each for each in emoji if subcategories.count(each.subcategory) >= MIN_EXAMPLES]


TABLES: dict[str, Callable[[list[Emoji], random.Random], list[Row]]] = {
    "one_word": one_word,
    "noisy_titles": noisy_titles,
    "empty_cells": empty_cells,
    "agreement": agreement,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draw", type=int, default=0, help="seed of the tables' texts and labels")
    parser.add_argument("--jobs", default="1")
    parser.add_argument("--folder", type=Path, default=Path("runs/tables"))
    parser.add_argument("--json", action="store_true", help="print the rows as JSON at the end")
    arguments, overrides = parser.parse_known_args()
    names = arguments.tables.split(",")
    if unknown := [name for name in names if name not in TABLES]:
        raise SystemExit(f"No table {', '.join(unknown)}; there are: {', '.join(TABLES)}.")
    pictures = fetch_openmoji(_SIZE)
    emoji = [each for each in load_emoji() if each.category not in LEFT_OUT]
    found = []
    for name in names:
        folder = arguments.folder / name
        write(folder, pictures, TABLES[name](emoji, random.Random(arguments.draw)))
        config, _ = write_config(folder, force=True)
        options = ["--config", str(config), "--methods", "linear_probe,epic", "--splits"]
        options += ["--seeds", str(arguments.seeds), "--jobs", arguments.jobs]
        options += ["--output", str(folder / "comparison"), *overrides]
        if compare_command(options):
            raise SystemExit(f"No run of {name} came to its end: see {folder / 'comparison'}.")
        rows = json.loads((folder / "comparison" / "comparison.json").read_text())
        rows = [row for row in rows if row["metric"] == "accuracy"]
        rows.append(scikit_learn(config, arguments.seeds, overrides))
        found += [{"table": name, **row} for row in rows]
    show(found)
    Console().print(OPENMOJI_ATTRIBUTION)
    if arguments.json:
        print(json.dumps(found))


def write(folder: Path, pictures: Path, rows: list[Row]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["picture", "caption", "kind"])
        for code, text, label in rows:
            writer.writerow([(pictures / f"{code}.png").resolve(), text.lower(), label])


def scikit_learn(config: Path, seeds: int, overrides: list[str]) -> dict[str, Any]:
    """Accuracy of its probe on both modalities, on the same cuts."""
    values = []
    for seed in range(seeds):
        options = ["--config", str(config), f"--data.split_seed={seed}", *overrides]
        *_, both = baselines(run(["fit", *options], BuiltCLI))
        values.append(float(both.correct.mean()))
    spread = statistics.stdev(values) if len(values) > 1 else None
    row = {"method": "scikit-learn's probe", "values": values, "mean": statistics.mean(values)}
    return row | {"std": spread, "difference": None, "p_value": None}


def show(rows: list[dict[str, Any]]) -> None:
    table = Table("table", "method", "accuracy %", "over EPIC, in points (95%)", "p")
    for row in rows:
        difference = ""
        if row["difference"] is not None:
            low, high = (f"{100 * row[key]:+.1f}" for key in ("low", "high"))
            difference = f"{100 * row['difference']:+.1f} ({low} to {high})"
        p_value = "" if row["p_value"] is None else f"{row['p_value']:.2f}"
        spread = "" if row["std"] is None else f" ± {100 * row['std']:.1f}"
        accuracy = f"{100 * row['mean']:.1f}{spread}"
        table.add_row(row["table"], row["method"], accuracy, difference, p_value)
    Console().print(table)


if __name__ == "__main__":
    main()
