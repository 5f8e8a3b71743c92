"""Write a table whose label is a rule of price, brand and year; images and texts tell nothing.

python benchmarks/rule_table.py FOLDER --seed 1
python benchmarks/columns.py FOLDER
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image

WORDS = ["red", "blue", "old", "tall", "small", "lamp", "chair", "box", "cup", "plate", "fan"]


def rule(price: float, brand: str, year: int) -> str:
    if brand in "AB":
        return "a" if price > 30 else "b"
    if year >= 2018:
        return "c" if price > 15 else "b"
    return "d" if brand in "CD" or price > 50 else "a"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng, images = np.random.default_rng(arguments.seed), arguments.folder / "images"
    images.mkdir(parents=True)
    with (arguments.folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "text", "price", "brand", "year", "label", "split"])
        for row in range(arguments.rows):
            noise = rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((112, 112)).save(images / f"{row}.png")
            price = round(float(np.exp(rng.normal(3.2, 0.8))), 2)
            year = int(rng.integers(2010, 2021))
            brand = rng.choice([*"ABCDEF"])
            split = rng.choice(["train", "val", "test"], p=[0.7, 0.1, 0.2])
            text = " ".join(rng.choice(WORDS, 4))
            label = rule(price, brand, year)
            writer.writerow([f"images/{row}.png", text, price, brand, year, label, split])


if __name__ == "__main__":
    main()
