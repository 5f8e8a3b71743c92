import json
from pathlib import Path

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
    "kind", [pa.list_(pa.int64()), pa.large_list(pa.int64()), pa.list_(pa.int64(), 2)]
)
def test_hugging_face_lists_of_classes_of_any_layout_keep_what_is_unknown(tmp_path, kind):
    feature = {"feature": {"names": ["x", "y"], "_type": "ClassLabel"}, "_type": "LargeList"}
    rows = [{"tags": [1, 0]}, {"tags": None}, {"tags": [1, 1]}, {"tags": None}]
    if not pa.types.is_fixed_size_list(kind):
        rows[2]["tags"] = []
    _save_to_disk(tmp_path / "d", rows, {"tags": feature}, pa.schema([("tags", kind)]))
    tags = read_table(tmp_path / "d")["tags"].to_pylist()
    assert tags[0] == ["y", "x"]
    assert tags[1] is None
    assert tags[2] == (["y", "y"] if pa.types.is_fixed_size_list(kind) else [])
    assert tags[3] is None


@pytest.mark.parametrize("kind", ["Sequence", "List", "LargeList", None])
def test_hugging_face_lists_of_classes_are_told_by_every_name_they_had(tmp_path, kind):
    inner = {"names": ["x", "y"], "_type": "ClassLabel"}
    feature = [inner] if kind is None else {"feature": inner, "_type": kind, "length": -1}
    _save_to_disk(tmp_path / "d", [{"tags": [1]}, {"tags": [0, -1]}], {"tags": feature})
    assert read_table(tmp_path / "d")["tags"].to_pylist() == [["y"], ["x", None]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, r"'label' holds class 5, but 2 are named"),
        ([0, 2], r"'label' holds class 2"),
    ],
)
def test_hugging_face_classes_without_a_name_are_refused(tmp_path, value, message):
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    if isinstance(value, list):
        features = {"label": {"feature": features["label"], "_type": "List"}}
    _save_to_disk(tmp_path / "d", [{"label": value}], features)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "d")


def test_hugging_face_lists_of_lists_are_left_as_they_are(tmp_path):
    inner = {"feature": {"names": ["x", "y"], "_type": "ClassLabel"}, "_type": "List"}
    features = {"tags": {"feature": inner, "_type": "List"}}
    _save_to_disk(tmp_path / "d", [{"tags": [[1], [0]]}], features)
    assert read_table(tmp_path / "d").to_pylist() == [{"tags": [[1], [0]]}]


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


@pytest.mark.parametrize("info", [b"[]", b"{", b'{"features": [1]}', b'{"features": {"b": {}}}'])
def test_a_saved_dataset_with_broken_metadata_is_refused_or_read(tmp_path, info):
    _save_to_disk(tmp_path / "d", ROWS, {})
    (tmp_path / "d" / "dataset_info.json").write_bytes(info)
    if b"{}" in info:
        assert read_table(tmp_path / "d").num_rows == 2
        return
    with pytest.raises(DataError, match="cannot be read"):
        read_table(tmp_path / "d")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json", "parquet"])
def test_a_table_that_may_not_be_read_is_refused(tmp_path, suffix, monkeypatch):
    path = _write(tmp_path / f"t.{suffix}", ROWS)

    def refuse(*args, **kwargs):  # permissions do not bind the root user
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr("pyarrow.parquet.read_table", refuse)
    with pytest.raises(
        DataError, match=rf"t\.{suffix} cannot be read: .*Permission denied.*permissions"
    ):
        read_table(path)


def test_missing_table_and_plain_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(DataError, match="no Hugging Face dataset"):
        read_table(tmp_path)
