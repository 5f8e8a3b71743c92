"""How alike the prompts of a trained EPIC attend.

    python benchmarks/prompt_attention.py RUN table.csv --image image --text caption

The distance of two distributions over tokens is their total variation, from 0 (the same) to 1. In
each step it is printed between the prompts of one item, and between items for the first prompt of
the image, as means over the first 64 rows of the table, which have both an image and a text.
"""

import csv
from itertools import combinations
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from common import build_parser, show
from epic_pl import Classifier

ROWS = 64


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("run")
    parser.add_argument("table", type=Path)
    parser.add_argument("--image", default="image")
    parser.add_argument("--text", default="text")
    given = parser.parse_args()
    with given.table.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row[given.image] and row[given.text]]
    items = [
        {"image": given.table.parent / row[given.image], "text": row[given.text]}
        for row in rows[:ROWS]
    ]
    classifier = Classifier.load(given.run, device="cpu")
    recording = classifier.module.model.record(classifier.processor(items))
    results = []
    for side in ("image", "text"):
        for step, attention in enumerate(getattr(recording, side), start=1):
            tokens = attention.tokens  # (B, n, N)
            result = {"prompts of": side, "step": step, "between prompts": between_prompts(tokens)}
            if side == "image":  # the places of words differ from text to text
                result["between items"] = distance(tokens[1:, 0], tokens[:-1, 0])
            results.append(result)
    show(results, given.json)


def between_prompts(weights: Tensor) -> float:
    """Mean distance of two prompts of an item, of weights ``(B, n, N)``."""
    distances = [distance(*pair) for pair in combinations(weights.unbind(dim=1), 2)]
    return round(fmean(distances), 4) if distances else 0.0


def distance(some: Tensor, others: Tensor) -> float:
    """Mean total variation of distributions ``(B, N)``, which need not sum to one."""
    shares = [each / each.sum(dim=-1, keepdim=True) for each in (some.double(), others.double())]
    return round(float((torch.sub(*shares).abs().sum(dim=-1) / 2).mean()), 4)


if __name__ == "__main__":
    main()
