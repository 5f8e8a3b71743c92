"""Has the input changed? Compares the features of two months, and draws the largest difference.

    epic-pl embed runs/my june.csv --image photo --text title --output june
    epic-pl embed runs/my july.csv --image photo --text title --output july
    python drift.py june july drift.png

Each modality's features are projected on the ten main directions of the first month. On each, a
Kolmogorov-Smirnov test of scipy compares the months. D is the largest distance of distributions:
0 if they are the same, 1 if they do not overlap; p has Bonferroni's correction.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from matplotlib import pyplot as plt
from scipy.stats import ks_2samp

DIRECTIONS = 10
ALARM = 0.15  # of D, if p is below 0.01


def compare(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """The direction in which features ``(M, d)`` differ most, with D and p."""
    mean = before.mean(axis=0)
    directions = np.linalg.svd(before - mean, full_matrices=False)[2][:DIRECTIONS]
    projected = [(features - mean) @ directions.T for features in (before, after)]
    tests = [ks_2samp(*sides) for sides in zip(*(each.T for each in projected), strict=True)]
    worst = max(range(len(tests)), key=lambda index: tests[index].statistic)
    distance, p = tests[worst].statistic, min(1.0, len(tests) * tests[worst].pvalue)
    alarm = distance > ALARM and p < 0.01
    return {"D": distance, "p": p, "alarm": alarm, "sides": [each[:, worst] for each in projected]}


def read(folder: Path, name: str) -> np.ndarray:
    """Features ``(M, d)`` of the rows that have the modality."""
    return np.array([row for row in pq.read_table(folder)[name].to_pylist() if row is not None])


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    first, second, figure = map(Path, sys.argv[1:])
    names = [
        name for name in ("image", "text") if len(read(first, name)) and len(read(second, name))
    ]
    axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3), squeeze=False)[1][0]
    for name, ax in zip(names, axes, strict=True):
        found = compare(read(first, name), read(second, name))
        verdict = "has changed" if found["alarm"] else "no change seen"
        print(f"{name}: {verdict} (D {found['D']:.2f}, p {found['p']:.2g})")
        ax.hist(found["sides"], bins=30, density=True, label=[first.name, second.name])
        ax.set(title=f"{name}: D {found['D']:.2f}", yticks=[])
        ax.legend()
    plt.tight_layout()
    plt.savefig(figure)
