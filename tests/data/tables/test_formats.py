import json
import os
import pickle

import fabricate
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from epic_pl.data.tables.columns import read_texts
from epic_pl.data.tables.formats import read_table
from epic_pl.utils.errors import DataError

CLASS = {"names": ["x", "y"], "_type": "ClassLabel"}
ROWS = [{"a": "007", "b": "2020-01-01"}, {"a": "2", "b": None}]


DEEP = b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}"
CONTENT = {
    "csv": "a,b\n007,2020-01-01\n2,\n",
    "tsv": "a\tb\n007\t2020-01-01\n2\t\n",
    "json": json.dumps(ROWS),
    "jsonl": "\ufeff" + "".join(json.dumps(row) + "\n" for row in ROWS),
}


@pytest.mark.parametrize("suffix", [*CONTENT, "parquet"])
def test_every_format_gives_the_same_rows_and_strings_stay_strings(tmp_path, suffix):
    path = tmp_path / f"t.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        path.write_text(CONTENT[suffix], encoding="utf-8")
    assert read_table(path).to_pylist() == ROWS


def _save_to_disk(folder, rows, features, schema=None):
    fabricate.save_to_disk(folder, pa.Table.from_pylist(rows, schema=schema), features)


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.int64()), pa.large_list(pa.int64()), pa.list_(pa.int64(), 2)], ids=str
)
def test_hugging_face_lists_of_classes_of_any_layout_keep_what_is_unknown(tmp_path, kind):
    rows = [{"tags": [1, 0]}, {"tags": None}, {"tags": [1, -1]}]
    feature = {"feature": CLASS, "_type": "LargeList"}
    _save_to_disk(tmp_path / "d", rows, {"tags": feature}, pa.schema([("tags", kind)]))
    assert read_table(tmp_path / "d")["tags"].to_pylist() == [["y", "x"], None, ["y", None]]


UNNAMED = "'a' holds class 2, but 2 are named"
BROKEN = "cannot be read"


@pytest.mark.parametrize(
    ("feature", "cell", "read"),
    [
        ({"feature": CLASS, "_type": "Sequence"}, [1], ["y"]),
        ([CLASS], [1], ["y"]),
        ({"feature": {"feature": CLASS, "_type": "List"}, "_type": "List"}, [[1]], [[1]]),
        (CLASS, 1, "y"),
        (CLASS, -1, None),
        (CLASS, "cat", "cat"),
        ({}, 1, 1),
        *((CLASS, 2, UNNAMED), ({"feature": CLASS, "_type": "List"}, [0, 2], UNNAMED)),
        *((each, 1, BROKEN) for each in ([], {"_type": "Sequence"}, CLASS | {"names": 5})),
    ],
)
def test_hugging_face_classes_are_told_by_every_description_or_refused(
    tmp_path, feature, cell, read
):
    _save_to_disk(tmp_path / "d", [{"a": cell}], {"a": feature, "gone": CLASS})
    if read in (UNNAMED, BROKEN):
        with pytest.raises(DataError, match=read):
            read_table(tmp_path / "d")
    else:
        assert read_table(tmp_path / "d").to_pylist() == [{"a": read}]


def test_a_parquet_file_of_the_hub_knows_its_classes_by_name(tmp_path):
    said = {"huggingface": json.dumps({"info": {"features": {"a": CLASS, "gone": CLASS}}})}
    table = pa.table({"a": [1, 0, -1]}).replace_schema_metadata(said)
    pq.write_table(table, tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet")["a"].to_pylist() == ["y", "x", None]


def test_hugging_face_dataset_dict_brings_its_splits(tmp_path):
    for split, text in (("train", "a"), ("validation", "b")):
        _save_to_disk(tmp_path / "d" / split, [{"text": text}], {})
    names = {"splits": ["train", "validation"]}
    fabricate.write_json(tmp_path / "d" / "dataset_dict.json", names)
    assert read_table(tmp_path / "d").to_pylist() == [
        {"text": "a", "split": "train"},
        {"text": "b", "split": "validation"},
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "is empty"),
        ("t.csv", b"a,b\n", "has no rows"),
        ("t.jsonl", b"", "has no rows"),
        ("t.jsonl", b'{"a": 1}\n{"a": \n', "line 2 is no JSON"),
        ("t.json", b"[1, 2]", r"row 0 .* is no object, but 1\. Correct it"),
        ("t.json", b"[]", "has no rows"),
        ("t.json", b"null", "line 1 must be a JSON object, but is null"),
        ("t.jsonl", b'null\n{"a": 1}\n', "line 1 must be a JSON object, but is null"),
        ("t.jsonl", b'{"a": 1}\n' + DEEP, "line 2: it is nested more than 64 deep"),
        ("t.json", b"[" + DEEP + b"]", r"row 0 .*nested more than 64 deep"),
        ("t.jsonl", b'{"a": ' * 30_000, "line 1 is no JSON"),
        ("t.jsonl", b"[" * 30_000, "cannot be read as JSON"),
        ("t.parquet", b"PAR1 not really", "cannot be read"),
        ("t.xlsx", b"PK", r"ends in '\.xlsx'.*Save it as one of these: spreadsheets, as CSV"),
    ],
)
def test_what_is_no_table_is_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_table(tmp_path / name)
    assert name in str(caught.value)


def _latin1(values):
    """Strings that are not UTF-8."""
    return pa.array(values, pa.binary()).view(pa.string())


@pytest.mark.parametrize(
    "column",
    [
        _latin1([b"a", b"caf\xe9"]),
        pa.ListArray.from_arrays([0, 1, 2], _latin1([b"a", b"caf\xe9"])),
        pa.StructArray.from_arrays([_latin1([b"a", b"caf\xe9"])], ["b"]),
    ],
    ids=["string", "list", "struct"],
)
def test_text_that_is_not_utf8_is_refused_with_its_column(tmp_path, column):
    table = pa.table({"a": [1, 2], "t": column})
    pq.write_table(table, tmp_path / "t.parquet")
    fabricate.save_to_disk(tmp_path / "d", table, {})
    for name in ("t.parquet", "d"):
        with pytest.raises(DataError, match=rf"{name} cannot be read: .*[Cc]olumn 1.*Invalid UTF8"):
            read_table(tmp_path / name)


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(DataError, match=r"t\.csv does not exist, or is no regular file"):
        read_table(tmp_path / "t.csv")
    _save_to_disk(tmp_path / "d", [{"a": "x"}], {})
    (arrow,) = (tmp_path / "d").glob("*.arrow")
    arrow.unlink()
    os.mkfifo(arrow)
    with pytest.raises(DataError, match="it is no regular file"):
        read_table(tmp_path / "d")


def test_missing_tables_impossible_paths_and_plain_folders_are_refused(tmp_path):
    for name in ("none.csv", "x" * 300 + ".csv", "a\0.csv"):
        with pytest.raises(DataError, match="does not exist"):
            read_table(tmp_path / name)
    with pytest.raises(DataError, match="no Hugging Face dataset"):
        read_table(tmp_path)


class _Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_nothing_of_a_saved_dataset_is_unpickled_or_run(tmp_path):
    payload = pickle.dumps(_Payload(tmp_path / "run"))
    metadata = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": payload,
    }
    schema = pa.schema([pa.field("a", pa.string(), metadata=metadata)])
    features = {"a": {"_type": "Pickle", "value": payload.hex()}}
    _save_to_disk(tmp_path / "d", [{"a": "x"}], features, schema)
    (tmp_path / "d" / "d.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    assert read_table(tmp_path / "d")["a"].to_pylist() == ["x"]
    assert not (tmp_path / "run").exists()


def test_deep_metadata_and_splits_elsewhere_are_refused(tmp_path):
    deep = {b"huggingface": b"[" * 100_000 + b"]" * 100_000}
    pq.write_table(pa.table({"a": ["x"]}).replace_schema_metadata(deep), tmp_path / "t.parquet")
    _save_to_disk(tmp_path / "other", [{"a": "x"}], {})
    (tmp_path / "d").mkdir()
    fabricate.write_json(tmp_path / "d" / "dataset_dict.json", {"splits": ["../other"]})
    for name in ("t.parquet", "d"):
        with pytest.raises(DataError, match="cannot be read"):
            read_table(tmp_path / name)


def test_a_key_of_several_types_is_refused_only_as_a_column(tmp_path):
    path = tmp_path / "t.jsonl"
    rows = [{"a": [1], "b": "x", "c": 1}, {"a": {"d": 1}, "b": "y", "c": 10**20}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = read_table(path)
    assert table["b"].to_pylist() == ["x", "y"]
    for name in "ac":
        with pytest.raises(
            DataError, match=f"'{name}' holds .*mixed or too large.* name another column"
        ):
            read_texts(table, name)
