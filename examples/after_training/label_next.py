r"""Which rows should be labelled next: those with the smallest margin, one of each near-duplicate.

    epic-pl predict --config my/epic.yaml --ckpt_path best \
        --data.init_args.predict_table new.csv --predictions.output "$PWD/new_answers.csv"
    epic-pl embed runs/my new.csv --image photo --text title --output features
    python label_next.py new_answers.csv features 200 > label.csv

Both name rows by their number, or both by an id: `data.init_args.id_column`, and `--id` of embed.
"""

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

NEAR = 0.95  # cosine from which two rows are near-duplicates


def choose(
    rows: list[dict[str, Any]], features: dict[str, np.ndarray], number: int
) -> list[dict[str, Any]]:
    """The ``number`` rows with the smallest margin, without near-duplicates of one another.

    ``features`` has a unit vector ``(d,)`` for each ``sample_id``.
    """
    chosen: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda each: float(each["margin"])):
        own = features[row["sample_id"]]
        if all(own @ features[other["sample_id"]] < NEAR for other in chosen):
            chosen.append(row)
        if len(chosen) == number:
            break
    return chosen


def read_features(folder: Path) -> dict[str, np.ndarray]:
    """A unit vector of each row's image and text together, which count equally."""
    if not folder.exists():
        sys.exit(f"There are no features at {folder}: write them by epic-pl embed.")
    table = pq.read_table(folder)
    sides = []
    for name in ("image", "text"):
        values = table[name].to_pylist()
        width = next((len(value) for value in values if value is not None), 0)
        sides.append(unit(np.array([value or [0.0] * width for value in values])))
    return dict(zip(table["sample_id"].to_pylist(), unit(np.hstack(sides)), strict=True))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors ``(M, d)`` of length 1; zero ones stay zero."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-9)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    predictions, folder, number = sys.argv[1:]
    with open(predictions, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    features = read_features(Path(folder))
    if {row["sample_id"] for row in rows} != set(features):
        sys.exit(
            f"The {len(rows)} rows of {predictions} are not the {len(features)} of {folder}: "
            "predict and embed the same table, and name its rows alike."
        )
    chosen = choose(rows, features, int(number))
    writer = csv.DictWriter(sys.stdout, list(chosen[0]))
    writer.writeheader()
    writer.writerows(chosen)
