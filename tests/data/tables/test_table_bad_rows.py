"""Rows that cannot be trained on: each ends in an error that names them."""

import re

import fabricate
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from epic_pl.data import TableDataModule
from epic_pl.data.rows import collect_refused
from epic_pl.utils.errors import ConfigError, DataError, EpicError

SPLIT = {"split_column": "split"}


@pytest.fixture
def folder(tmp_path):
    for index in range(12):
        fabricate.image(tmp_path / "mine" / f"{index}.png")
    return tmp_path / "mine"


def _rows(**cells):
    """Sound rows, with ``cells[column]`` put in: ``{row: value}``, or one value for all."""
    rows = [
        {"image": f"{i}.png", "text": f"text {i}", "label": "ab"[i % 2], "id": f"id{i}"}
        | {"split": "train" if i < 8 else ("val", "test")[i % 2]}
        for i in range(12)
    ]
    for name, values in cells.items():
        values = values if isinstance(values, dict) else dict.fromkeys(range(12), values)
        for row, value in values.items():
            rows[row][name] = value
    return rows


EACH = {i: f"only {i}" for i in range(12)}
LISTS = dict.fromkeys(range(12), '["a", "b"]') | {7: "['a' 'b']", 8: "[a]"}
BYTES = {i: {"bytes": b"x" if i != 3 else None, "path": f"{i}.png"} for i in range(12)}
BYTES[4]["path"] = None
NAN = {i: float(i % 2) for i in range(12)} | {3: float("nan")}
HUGE = NAN | {3: 1e19}
CASES = {
    "missing column": (
        _rows(),
        {"label_column": "lable"},
        r"no column 'lable'.*it has .*'label'.*mean 'label'\?$",
    ),
    "missing image column": (
        _rows(),
        {"image_column": "x"},
        r"no column 'x'.*Rename one.*image_column to null",
    ),
    "missing split column": (_rows(), {"split_column": "splt"}, r"no column 'splt'"),
    "class named twice": (_rows(), {"classes": ["a", "a", "b"]}, r"names one twice: a, a, b"),
    "label NaN": (_rows(label=NAN), {}, r"nan in .*no whole number.*row 3"),
    "label 1e19": (_rows(label=HUGE), {}, r"1e\+19 in .*no whole number below 2\^53.*row 3"),
    "label nan": (_rows(label={3: "nan", 5: "NaN"}), {}, r"pandas.*2 such, the first in row 3"),
    "one image": (_rows(image="0.png"), {"test_size": 0.2}, r"show only 1 different images"),
    "label absent": (_rows(label={2: None}), {}, r"no label in row 2"),
    "label null in a list": (_rows(label=["a", None]), {}, r"null \(row 0"),
    "separator for lists": (_rows(label=["a"]), {"label_separator": "|"}, r"holds lists"),
    "separator empty": (_rows(), {"label_separator": ""}, r"label_separator is empty"),
    "unknown label": (_rows(label={9: "c"}), {"classes": ["a", "b"]}, r"'c' \(row 9"),
    "label unseen in training": (_rows(label={9: "c"}), SPLIT, r"'c' occur in validation.*row 9"),
    "one class only": (_rows(label="a"), {}, r"one class only \(a\)"),
    "ids repeated": (_rows(id={4: "id1"}), {"id_column": "id"}, r"not unique: rows 1 \('id1'\), 4"),
    "id absent": (_rows(id={4: None}), {"id_column": "id"}, r"no sample id in row 4"),
    "unknown split": (_rows(split={4: "aside"}), SPLIT, r"row 4 \('aside'\)"),
    "no training rows": (_rows(split="val"), SPLIT, r"no training rows"),
    "sizes too large": (_rows(), {"val_size": 0.6, "test_size": 0.5}, r"leave none of 12 rows"),
    "no row to spare": (_rows(label=EACH), {}, r"val_size 0\.1\): of 12 rows each of 12 classes"),
    "no split left": (_rows(), {"val_size": 0}, r"val split .* is empty"),
    "broken list": (_rows(label=LISTS), {}, r"\['a' 'b'\].* cannot be read .*\(row 7; 2 such\)"),
    "neither modality": (
        _rows(image={6: None}, text={6: None}),
        {},
        r"rows with neither image nor text: 1 \(6\)\. .*set on_bad_sample",
    ),
    "path missing": (
        _rows(image={5: "no.png"}),
        {},
        r"rows with a bad image: 1 \(5\)\. .*no\.png under .*no such file",
    ),
    "path with backslash": (_rows(image={5: "img\\5.png"}), {}, r"with / instead of"),
    "address": (_rows(image={5: "https://x.org/5.png"}), {}, r"fetch the image"),
    "traversal": (
        _rows(image={5: "../mine/../../etc/passwd"}),
        {},
        r"leads? out of the image root",
    ),
    "numbers for images": (_rows(image=7), {}, r"'image' holds int64, not paths of images"),
    "lists for texts": (_rows(text=["a"]), {}, r"'text' holds list<.*strings or numbers are"),
    "bytes in some rows": (_rows(image=BYTES), {}, r"only a path in row 3\. Put the bytes"),
    "nothing to look at": (_rows(), {"image_column": None, "text_columns": []}, r"is named"),
}


def _make(folder, rows, **options):
    pq.write_table(pa.Table.from_pylist(rows), folder / "t.parquet")
    return TableDataModule(table=str(folder / "t.parquet"), **fabricate.ENCODERS, **options)


@pytest.mark.parametrize("case", CASES)
def test_bad_rows_are_refused_by_name(folder, case):
    rows, options, message = CASES[case]
    with pytest.raises(EpicError, match=message) as caught:
        _make(folder, rows, **options).setup()
    if not isinstance(caught.value, ConfigError) and case != "no split left":
        assert "t.parquet" in str(caught.value) or "image paths" in str(caught.value)


@pytest.mark.parametrize(
    "case",
    [
        *(f"label {kind}" for kind in ("NaN", "1e19", "nan", "absent", "unseen in training")),
        *("unknown label", "ids repeated", "id absent", "unknown split"),
    ],
)
def test_refused_rows_are_collected_for_the_data_check(folder, case):
    rows, options, message = CASES[case]
    rows = [row | {"day": "soon"} for row in rows]
    with collect_refused() as refused:
        data = _make(folder, rows, **options, date_columns=["day"])
    assert sum(data.read_split(split).table.num_rows for split in data.own_splits) == 12
    assert any(re.search(message, str(error)) for error in refused)
    assert any("'day' (date_columns) holds no date" in str(error) for error in refused)
    with pytest.raises(DataError):
        _make(folder, rows, **options, date_columns=["day"])
