import gzip

import pyarrow as pa
import pytest

from epic_pl.data.datasets.annotations import find_path, label_codes, read_jsonl
from epic_pl.utils.errors import DataError


@pytest.mark.parametrize("place", ["b[1].csv", "un[packed/a.csv", "a.csv"])
def test_the_first_path_that_is_there_is_found_in_a_folder_or_one_below(tmp_path, place):
    (tmp_path / "un[packed").mkdir()
    (tmp_path / "b[1].csv").touch()
    (tmp_path / place).touch()
    assert find_path(tmp_path, ["a.csv", "b[1].csv"], "") == tmp_path / place


def test_a_path_that_is_missing_is_named_with_the_way_to_get_it(tmp_path):
    with pytest.raises(DataError) as caught:
        find_path(tmp_path, ["a.csv", "images"], "Fetch it from there.")
    message = str(caught.value)
    assert "\n" not in message
    for part in (f"{tmp_path} has no a.csv or images", "data_dir", "Fetch it from there."):
        assert part in message


@pytest.mark.parametrize(("name", "open_file"), [("x.jsonl", open), ("x.jsonl.gz", gzip.open)])
def test_json_lines_keep_the_columns_asked_for_as_strings(tmp_path, name, open_file):
    with open_file(tmp_path / name, "wb") as file:
        file.write(b'{"id": 7, "text": "a", "more": [1, {"x": 2}]}\n{"id": "2", "text": null}\n')
    assert read_jsonl(tmp_path / name, ("text", "id", "absent")).to_pylist() == [
        {"text": "a", "id": "7", "absent": None},
        {"text": None, "id": "2", "absent": None},
    ]


BROKEN = (
    *(b"<html>", b"[1]", b'{"id": "2"', b'{"id": "cut \\ud83d"}'),
    *(b"[" * 100_000, b'{"id": "\xff"}', b'{"id": {"x": 1}}'),
)


@pytest.mark.parametrize(
    ("content", "place"),
    [*((b'{"id": "1"}\n' + line, ", line 2") for line in BROKEN), (b"", " holds no rows")],
)
def test_json_lines_name_file_and_line_of_what_is_broken(tmp_path, content, place):
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=rf"x\.jsonl{place}"):
        read_jsonl(tmp_path / "x.jsonl", ("id",))


def test_json_lines_name_the_first_row_without_a_value(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": "1"}\n{"img": "x"}\n{"img": "y"}\n')
    with pytest.raises(DataError, match=r"x.jsonl has no 'id' in rows 1, 2\."):
        read_jsonl(path, ("img", "id"), required=("id",))


def test_label_codes_name_the_first_row_of_no_class(tmp_path):
    table = pa.table({"id": [*"abcd"], "label": ["x", None, "y", "maybe"]})
    assert label_codes(table.slice(0, 3), "label", "xy", "id", tmp_path).to_pylist() == [0, None, 1]
    with pytest.raises(DataError, match=r"1 of 4 rows have a label .*'maybe' of id 'd'"):
        label_codes(table, "label", "xy", "id", tmp_path)
