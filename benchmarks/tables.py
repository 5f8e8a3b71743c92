"""Tables of OpenMoji pictures with texts and labels other than the demo's, for `folds.py`.

A fifth of the rows is locked: it is in no fold, and only a released comparison may test on it. To
judge methods and options on folds:

    python benchmarks/folds.py --tasks one_word,noisy_titles,empty_cells,agreement

`python benchmarks/tables.py` writes the tables with the locked rows as their test split, and says
how to test on them.
"""

import argparse
import csv
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

from epic_pl.assets import Emoji, fetch_openmoji, load_emoji
from epic_pl.data.datasets.openmoji import LEFT_OUT, MIN_EXAMPLES
from epic_pl.inspection.init import write_config

FOLDS = 3
_SIZE = 112
_LOCKED = 0.2

Row = tuple[str, str, str]
"""Code point, text and label."""


def one_word(emoji: list[Emoji], draw: random.Random) -> list[Row]:
    """One of nine categories, from the picture and one word of its name."""
    return [(each.code, draw.choice(each.name.split()), each.category) for each in emoji]


def noisy_titles(emoji: list[Emoji], draw: random.Random) -> list[Row]:
    """Subcategories; words are missing, and one title in five is another emoji's."""
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
    """Emoji of subcategories with enough examples."""
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
    parser.add_argument("--draw", type=int, default=0, help="seed of the tables' texts and labels")
    parser.add_argument("--folder", type=Path, default=Path("runs/tables"))
    arguments = parser.parse_args()
    for name in TABLES:
        config = write(arguments.folder, name, arguments.draw, locked=True)
        print(f"epic-pl compare --config {config} --data.split_column split")


@cache
def write(folder: Path, name: str, draw: int = 0, locked: bool = False) -> Path:
    """Write a table, and the config that ``data init`` guesses for it; returns the config.

    Args:
        folder: has a folder for each table.
        name: a key of :data:`TABLES`.
        draw: seed of texts and labels.
        locked: write all rows, with a column ``split`` in which the locked ones are the test split;
            else only the others, with a column for each fold in which it is the test split.
    """
    pictures = fetch_openmoji(_SIZE).resolve()
    emoji = [each for each in load_emoji() if each.category not in LEFT_OUT]
    rows = TABLES[name](emoji, random.Random(draw))
    random.Random(0).shuffle(rows)
    size = int(_LOCKED * len(rows))
    table: dict[str, list[str]] = {"picture": [], "caption": [], "kind": []}
    for code, text, label in rows if locked else rows[size:]:
        for column, cell in zip(
            table, (pictures / f"{code}.png", text.lower(), label), strict=True
        ):
            table[column].append(str(cell))
    path = folder / name / "table.csv"
    write_csv(path, table)
    config, _ = write_config(path.parent, force=True)  # guessed without the columns of the splits
    count = range(len(table["kind"]))
    if locked:
        table["split"] = ["test" if row < size else "train" for row in count]
    else:
        for fold in range(FOLDS):
            table[f"fold{fold}"] = ["test" if row % FOLDS == fold else "train" for row in count]
    write_csv(path, table)
    return config


def write_csv(path: Path, table: dict[str, list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([list(table), *zip(*table.values(), strict=True)])


if __name__ == "__main__":
    main()
