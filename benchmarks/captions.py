"""Tables for SNLI-VE in two stages: captions of training images first, then the statements.

    python benchmarks/captions.py FOLDER captions.txt OUT
    epic-pl data init OUT/captions && epic-pl data init OUT/statements
    epic-pl fit --config OUT/captions/epic.yaml $OPTIONS --trainer.max_epochs 3
    epic-pl fit --config OUT/statements/epic.yaml $OPTIONS --trainer.max_epochs 4 \
        --model.warm_start LAST.ckpt

docs/results.md has the results with these OPTIONS: `--model.method Parts
--model.method.interaction_layers [[10,0]] --model.loss.matched_classes [entailment]`; EPIC has
`--model.method.interaction_layers [[10,0],[11,5]] --model.method.num_prompts 8`, the text alone
`--model.method LateFusionMLP --data.alone text`.

FOLDER has table.csv, with the columns image, statement, label and split; captions.txt has the
columns image (a file name) and caption. Without test rows those of val are the test split. A tenth
of the training images is for validation, in both tables, and no caption of these is read. In the
first table each caption is entailed by its image and, as another row, contradicted by an image that
is drawn; the statements are there, too.
"""

import argparse
import csv
import random
import sys
from pathlib import Path
from zlib import crc32

from layouts import Row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("captions", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    with (arguments.folder / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with arguments.captions.open(newline="", encoding="utf-8") as file:
        captions = list(csv.DictReader(file))
    divide(rows)
    for row in rows:
        row["image"] = str((arguments.folder / row["image"]).resolve())
    for name, more in (("captions", matched(rows, captions)), ("statements", [])):
        path = arguments.output / name / "table.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["image", "statement", "label", "split"])
            writer.writeheader()
            writer.writerows([*more, *rows])
        print(f"{path}: {len(more) + len(rows):,} rows")
    return 0


def divide(rows: list[Row]) -> None:
    """Change the splits of rows: a tenth of the training images becomes val."""
    if not any(row["split"] == "test" for row in rows):
        for row in rows:
            row["split"] = "test" if row["split"] == "val" else row["split"]
    for row in rows:
        drawn = crc32(Path(row["image"]).name.encode()) % 10 == 0
        if row["split"] == "train" and drawn:
            row["split"] = "val"


def matched(rows: list[Row], captions: list[Row]) -> list[Row]:
    """Captions of training images, each with its own image and with one that is drawn."""
    images = {Path(row["image"]).name: row["image"] for row in rows if row["split"] == "train"}
    known = [(each["image"], each["caption"]) for each in captions if each["image"] in images]
    drawn = random.Random(0).sample(known, len(known))
    pairs = [(image, text, "entailment") for image, text in known]
    others = zip(known, drawn, strict=True)
    pairs += [(a, text, "contradiction") for (a, _), (b, text) in others if a != b]
    return [
        {"image": images[image], "statement": text, "label": label, "split": "train"}
        for image, text, label in pairs
    ]


if __name__ == "__main__":
    sys.exit(main())
