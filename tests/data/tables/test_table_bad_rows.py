"""Rows that cannot be trained on: each ends in an error that names them."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from epic_pl.data import TableDataModule
from epic_pl.errors import ConfigError, EpicError

ENCODERS = {"image_encoder": "vit_tiny_patch16_224", "text_encoder": "unused"}
SPLIT = {"split_column": "split"}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for index in range(12):
        Image.new("RGB", (40, 40)).save(folder / f"{index}.png")
    return folder


def _rows(count=12, **cells):
    """Sound rows, with ``cells[column] = {row: value}`` put in."""
    rows = [
        {
            "image": f"{i}.png",
            "text": f"text {i}",
            "label": "ab"[i % 2],
            "split": "train" if i < 8 else ("val", "test")[i % 2],
            "id": f"id{i}",
        }
        for i in range(count)
    ]
    for name, values in cells.items():
        for row, value in values.items():
            rows[row][name] = value
    return rows


NUMBERS = {i: float(i % 2) for i in range(12)}
CASES = {
    "missing column": (_rows(), {"label_column": "lable"}, r"no column 'lable'.*it has .*'label'"),
    "missing image column": (
        _rows(),
        {"image_column": "picture"},
        r"no column 'picture'.*set image_column to null",
    ),
    "missing split column": (_rows(), {"split_column": "splt"}, r"no column 'splt'"),
    "class named twice": (_rows(), {"classes": ["a", "a", "b"]}, r"names one twice: a, a, b"),
    "label NaN": (_rows(label=NUMBERS | {3: float("nan")}), {}, r"nan in .*no whole number.*row 3"),
    "label nan from pandas": (
        _rows(label={3: "nan", 5: "NaN"}),
        {},
        r"pandas.*2 such, the first in row 3",
    ),
    "one picture": (
        _rows(image=dict.fromkeys(range(12), "0.png")),
        {"test_size": 0.2},
        r"12 rows show only 1 different pictures",
    ),
    "label absent": (_rows(label={2: None}), {}, r"no label in row 2"),
    "label null in a list": (_rows(label={i: ["a", None] for i in range(12)}), {}, r"null \(row 0"),
    "separator for lists": (
        _rows(label={i: ["a"] for i in range(12)}),
        {"label_separator": "|"},
        r"holds lists",
    ),
    "unknown label": (_rows(label={9: "c"}), {"classes": ["a", "b"]}, r"'c' \(row 9"),
    "label unseen in training": (_rows(label={9: "c"}), SPLIT, r"'c' occur in validation.*row 9"),
    "one class only": (_rows(label={i: "a" for i in range(12)}), {}, r"one class only \(a\)"),
    "duplicate ids": (
        _rows(id={4: "id1"}),
        {"id_column": "id"},
        r"not unique: rows 1 \('id1'\), 4",
    ),
    "id absent": (_rows(id={4: None}), {"id_column": "id"}, r"none in row 4"),
    "unknown split": (_rows(split={4: "aside"}), SPLIT, r"row 4 \('aside'\)"),
    "no training rows": (_rows(split={i: "val" for i in range(12)}), SPLIT, r"no training rows"),
    "sizes too large": (_rows(), {"val_size": 0.6, "test_size": 0.5}, r"leave none of 12 rows"),
    "no row to spare": (
        _rows(label={i: f"only {i}" for i in range(12)}),
        {},
        r"cut off for validation \(val_size 0\.1\): of 12 rows each class keeps one",
    ),
    "no split left": (_rows(), {"val_size": 0}, r"val split .* is empty"),
    "broken list": (
        _rows(label=dict.fromkeys(range(12), '["a", "b"]') | {7: "['a' 'b']"}),
        {},
        r"cannot be read as one \(row 7; 1 such\)",
    ),
    "neither modality": (_rows(image={6: None}, text={6: None}), {}, r"neither.*row 6"),
    "path missing": (_rows(image={5: "no.png"}), {}, r"5 \(no.png\).*no such file"),
    "path with backslash": (_rows(image={5: "img\\5.png"}), {}, r"with / instead of"),
    "address": (_rows(image={5: "https://x.org/5.png"}), {}, r"fetch the picture"),
    "traversal": (_rows(image={5: "../mine/../../etc/passwd"}), {}, r"lead out of the image root"),
    "pictures embedded in some rows only": (
        _rows(
            image={
                i: {"bytes": b"x" if i != 3 else None, "path": f"{i}.png" if i != 4 else None}
                for i in range(12)
            }
        ),
        {},
        r"only a path in row 3\. Put the bytes",
    ),
    "nothing to look at": (_rows(), {"image_column": None, "text_columns": []}, r"both empty"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_rows_are_refused_by_name(folder, case):
    rows, options, message = CASES[case]
    pq.write_table(pa.Table.from_pylist(rows), folder / "t.parquet")
    with pytest.raises(EpicError, match=message) as caught:
        TableDataModule(table=str(folder / "t.parquet"), **ENCODERS, **options).setup()
    if not isinstance(caught.value, ConfigError) and case != "no split left":
        assert "t.parquet" in str(caught.value) or "picture paths" in str(caught.value)


def test_link_out_of_the_folder_is_refused_when_it_is_read(folder, tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "out.png")
    (folder / "0.png").unlink()
    os.symlink(tmp_path / "out.png", folder / "0.png")
    pq.write_table(pa.Table.from_pylist(_rows()), folder / "t.parquet")
    data = TableDataModule(table=str(folder / "t.parquet"), **ENCODERS, split_column="split")
    data.setup()
    with pytest.raises(EpicError, match="outside of the image root"):
        data.dataset("train")[0]
