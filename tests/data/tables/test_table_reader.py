import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from epic_pl.data.tables.reader import read_table
from epic_pl.errors import DataError

ROWS = [{"a": "1", "b": "x"}, {"a": "2", "b": None}]


def _write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        mark = "\t" if path.suffix == ".tsv" else ","
        lines = [mark.join(value or "" for value in row.values()) for row in rows]
        path.write_text("\n".join([mark.join(rows[0]), *lines]) + "\n")
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    assert read_table(_write(tmp_path / f"t.{suffix}", ROWS)).to_pylist() == ROWS


def test_csv_cells_stay_strings(tmp_path):
    (tmp_path / "t.csv").write_text("id,text\n007,\n")
    assert read_table(tmp_path / "t.csv").to_pylist() == [{"id": "007", "text": None}]


def test_jsonl_with_byte_order_mark_keeps_dates_as_they_are_written(tmp_path):
    (tmp_path / "t.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "2020-01-01"}\n')
    assert read_table(tmp_path / "t.jsonl").to_pylist() == [{"text": "2020-01-01"}]


def _save_to_disk(folder, rows, features, schema=None):
    """The layout of Hugging Face's ``Dataset.save_to_disk``."""
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(rows, schema=schema)
    name = "data-00000-of-00001.arrow"
    with pa.OSFile(str(folder / name), "wb") as f, pa.ipc.new_stream(f, table.schema) as writer:
        writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


def test_hugging_face_dataset_with_named_classes(tmp_path):
    features = {
        "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
        "tags": {"feature": {"names": ["x", "y"], "_type": "ClassLabel"}, "_type": "List"},
    }
    rows = [{"label": 1, "tags": [0, 1]}, {"label": -1, "tags": []}]
    _save_to_disk(tmp_path / "d", rows, features)
    assert read_table(tmp_path / "d").to_pylist() == [
        {"label": "dog", "tags": ["x", "y"]},
        {"label": None, "tags": []},
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [(5, r"'label' holds class 5, but 2 are named"), ([0, 2], r"'label' holds class 2")],
)
def test_hugging_face_classes_without_a_name_are_refused(tmp_path, value, message):
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    if isinstance(value, list):
        features = {"label": {"feature": features["label"], "_type": "List"}}
    _save_to_disk(tmp_path / "d", [{"label": value}], features)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "d")


def test_hugging_face_dataset_dict_brings_its_splits(tmp_path):
    for split, text in (("train", "a"), ("validation", "b")):
        _save_to_disk(tmp_path / "d" / split, [{"text": text}], {})
    names = {"splits": ["train", "validation"]}
    (tmp_path / "d" / "dataset_dict.json").write_text(json.dumps(names))
    assert read_table(tmp_path / "d").to_pylist() == [
        {"text": "a", "split": "train"},
        {"text": "b", "split": "validation"},
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "is empty"),
        ("t.csv", b"a,b\n", "has no rows"),
        ("t.csv", b"a,b\n1,2,3\n", "line 2: 3 cells, not 2.*must stand in double quotes"),
        ("t.jsonl", b"", "has no rows"),
        ("t.jsonl", b'{"a": 1}\n{"a": \n', "line 2 is no JSON"),
        ("t.jsonl", b'{"a": 1}\n{"a": "x"}\n', "'a' must be of one type.*'x'"),
        ("t.jsonl", b'{"a": "caf\xe9"}\n', "line 1 is no JSON.*utf-8"),
        ("t.json", b"[1, 2]", r"item 0 .* is no object, but 1"),
        ("t.json", b"[]", "has no rows"),
        ("t.json", b'[{"a": 99999999999999999999}]', "cannot be read: .*too large"),
        ("t.json", b"[" * 100_000, "cannot be read as JSON: .*recursion"),
        ("t.parquet", b"PAR1 not really", "cannot be read"),
        ("t.xlsx", b"PK", "ends in '.xlsx'"),
    ],
)
def test_what_is_no_table_is_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_table(tmp_path / name)
    assert name in str(caught.value)


def test_missing_table_and_plain_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(DataError, match="no Hugging Face dataset"):
        read_table(tmp_path)
