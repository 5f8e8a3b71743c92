"""``benchmarks/captions.py``: no caption of an image that is held out, and as many false ones."""

import csv
from collections import Counter

import pytest

import captions
import tables


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_captions_are_of_training_images_alone(tmp_path, monkeypatch, held_out):
    names = [f"{number}.jpg" for number in range(60)]
    splits = ["train"] * 50 + [held_out] * 10
    rows = {"image": [f"images/{name}" for name in names], "statement": ["It is so."] * 60}
    rows |= {"label": ["neutral"] * 60, "split": splits}
    tables.write_csv(tmp_path / "table.csv", rows)
    told = [(name, f"caption {n} of {name}") for name in names for n in range(2)]
    columns = zip(*told, strict=True)
    written = dict(zip(("image", "caption"), map(list, columns), strict=True))
    tables.write_csv(tmp_path / "captions.txt", written)
    words = ["captions.py", str(tmp_path), str(tmp_path / "captions.txt"), str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", words)
    assert captions.main() == 0
    found = {}
    for name in ("captions", "statements"):
        with (tmp_path / "out" / name / "table.csv").open(newline="") as file:
            found[name] = list(csv.DictReader(file))
    counts = Counter(row["split"] for row in found["statements"])
    assert counts["test"] == 10
    assert 0 < counts["val"] < 15
    said = [row for row in found["captions"] if row not in found["statements"]]
    splits = {row["image"]: row["split"] for row in found["statements"]}
    assert {splits[row["image"]] for row in said} == {row["split"] for row in said} == {"train"}
    own = {text: name for name, text in told}
    for row in said:
        matches = row["image"].endswith("/" + own[row["statement"]])
        assert row["label"] == ("entailment" if matches else "contradiction")
    labels = Counter(row["label"] for row in said)
    assert labels["entailment"] == 2 * counts["train"]
    assert 0.8 * labels["entailment"] < labels["contradiction"] <= labels["entailment"]
