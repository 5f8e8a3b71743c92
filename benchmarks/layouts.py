"""A table of real images in the files of SNLI-VE or MM-IMDB, for the DataModules of these datasets.

    python benchmarks/layouts.py FOLDER data/snli_ve --layout snli_ve
    python benchmarks/layouts.py FOLDER data/mm_imdb --layout mm_imdb
    epic-pl fit --config snli_ve.yaml --config pypi.yaml

FOLDER has table.csv, with the columns image, statement and label, or poster, plot and genres
(joined by |), and split: train, val or test. Without test rows those of val are the test split, and
a tenth of the training images is for validation. Images are linked, not copied.
"""

import argparse
import csv
import json
import os
import shutil
import sys
from pathlib import Path
from zlib import crc32

Row = dict[str, str]
SPLITS = ("train", "val", "test")
_GENRES = {"Science Fiction": "Sci-Fi"}  # a name of MM-IMDB


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--layout", choices=LAYOUTS, required=True)
    arguments = parser.parse_args()
    write, image_column = LAYOUTS[arguments.layout]
    splits = read_splits(arguments.folder / "table.csv", image_column)
    arguments.output.mkdir(parents=True, exist_ok=True)
    write(splits, arguments.folder.resolve(), arguments.output)
    counts = ", ".join(f"{len(rows):,} {split}" for split, rows in splits.items())
    print(f"{arguments.output}: {counts} rows")
    return 0


def read_splits(path: Path, image_column: str) -> dict[str, list[Row]]:
    """The rows of train, val and test."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    splits = {split: [row for row in rows if row["split"] == split] for split in SPLITS}
    if not splits["test"]:
        splits["test"], known = splits["val"], splits["train"]
        chosen = [crc32(row[image_column].encode()) % 10 == 0 for row in known]
        splits["train"] = [row for row, held in zip(known, chosen, strict=True) if not held]
        splits["val"] = [row for row, held in zip(known, chosen, strict=True) if held]
    return splits


def write_snli_ve(splits: dict[str, list[Row]], source: Path, output: Path) -> None:
    """``snli_ve_{train,dev,test}.jsonl`` and ``flickr30k_images/``."""
    for split, rows in splits.items():
        lines = []
        for number, row in enumerate(rows):
            image = source / row["image"]
            link(image, output / "flickr30k_images" / f"{image.stem}.jpg")
            about = {"Flickr30K_ID": image.stem, "pairID": f"{image.name}#{number}"}
            about |= {"gold_label": row["label"], "sentence2": row["statement"]}
            lines.append(f"{json.dumps(about)}\n")
        name = f"snli_ve_{'dev' if split == 'val' else split}.jsonl"
        (output / name).write_text("".join(lines), encoding="utf-8")


def write_mm_imdb(splits: dict[str, list[Row]], source: Path, output: Path) -> None:
    """``split.json`` and ``dataset/<7 digits>.{json,jpeg}``."""
    folder, lists = output / "dataset", {}
    for split, rows in splits.items():
        lists["dev" if split == "val" else split] = names = []
        for row in rows:
            names.append(name := Path(row["poster"]).stem.removeprefix("tt").zfill(7))
            genres = [_GENRES.get(genre, genre) for genre in row["genres"].split("|")]
            about = {"plot": [row["plot"]], "genres": genres}
            link(source / row["poster"], folder / f"{name}.jpeg")
            (folder / f"{name}.json").write_text(json.dumps(about), encoding="utf-8")
    (output / "split.json").write_text(json.dumps(lists), encoding="utf-8")


def link(source: Path, target: Path) -> None:
    """A hard link to an image, which a folder of its own may hold; a copy on another disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)


LAYOUTS = {"snli_ve": (write_snli_ve, "image"), "mm_imdb": (write_mm_imdb, "poster")}

if __name__ == "__main__":
    sys.exit(main())
