import json

import pytest

from epic_pl.data.records import read_csv, read_json, read_jsonl, require, string_list
from epic_pl.errors import DataError


def test_json_lines_keep_the_columns_asked_for_as_strings(tmp_path):
    path = tmp_path / "x.jsonl"
    rows = [{"id": "1", "text": "a", "more": [1, {"x": 2}]}, {"id": "2", "text": None}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_jsonl(path, ("text", "id", "absent")).to_pylist() == [
        {"text": "a", "id": "1", "absent": None},
        {"text": None, "id": "2", "absent": None},
    ]


def test_json_lines_take_numbers_blank_lines_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": 7, "text": "a"}\n\n{"id": "08", "text": "\xc3\xa9"}\n')
    assert read_jsonl(path, ("id", "text")).to_pylist() == [
        {"id": "7", "text": "a"},
        {"id": "08", "text": "é"},
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"<html>",
        b"[1]",
        b'{"id": "2"',
        b'{"id": "cut \\ud83d"}',
        b"[" * 100_000,
        b'{"id": "\xff"}',
        b'{"id": {"x": 1}}',
    ],
)
def test_json_lines_name_file_and_line_of_what_is_broken(tmp_path, line):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"id": "1"}\n' + line + b"\n")
    with pytest.raises(DataError, match=r"x\.jsonl, line 2"):
        read_jsonl(path, ("id",))


def test_json_lines_refuse_an_empty_file(tmp_path):
    (tmp_path / "x.jsonl").touch()
    with pytest.raises(DataError, match="no rows"):
        read_jsonl(tmp_path / "x.jsonl", ("id",))


def test_require_names_the_first_row_without_a_value(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": "1"}\n{"img": "x"}\n{"img": "y"}\n')
    table = read_jsonl(path, ("id",))
    with pytest.raises(DataError, match=r"2 of 3 rows have no 'id', the first is row 1"):
        require(table, "id", path)


CUT = b'{"a": "cut \\ud83d"}'


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[1]", CUT, b"[" * 100_000])
def test_json_names_the_file_that_is_broken(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.json"):
        read_json(tmp_path / "x.json")


def test_emoji_that_are_whole_are_read(tmp_path):
    line = json.dumps({"id": "\U0001f600", "n": 1})
    assert "\\ud83d" in line
    (tmp_path / "x.json").write_text(line)
    assert read_json(tmp_path / "x.json")["id"] == "\U0001f600"
    for text in (line, line.replace("}", "}\n\n") + '{"id": 3}'):  # by Arrow, and line by line
        (tmp_path / "x.jsonl").write_text(text)
        assert read_jsonl(tmp_path / "x.jsonl", ("id",))["id"][0].as_py() == "\U0001f600"


def test_a_list_of_strings_is_one_and_all_else_is_named():
    assert string_list(["a", ""], "ids", "x.json") == ["a", ""]
    assert string_list([], "ids", "x.json") == []
    for value in (None, "a", "", 3, {"a": 1}, ["a", 3], [None], [["a"]]):
        with pytest.raises(DataError, match=r"x\.json: ids must be a list of strings"):
            string_list(value, "ids", "x.json")


def test_csv_keeps_commas_quotes_and_line_breaks_inside_quotes(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b'\xef\xbb\xbfa.jpg,"one, ""two""\nthree",pie\r\nb.jpg,,pie\r\n')
    assert list(read_csv(path, 3)) == [
        ["a.jpg", 'one, "two"\nthree', "pie"],
        ["b.jpg", "", "pie"],
    ]


@pytest.mark.parametrize("line", [b"b.jpg,one,two,pie", b'b.jpg,"open,pie', b"b.jpg,\xff,pie"])
def test_csv_names_file_and_line_of_what_is_broken(tmp_path, line):
    (tmp_path / "x.csv").write_bytes(b"a.jpg,title,pie\n" + line + b"\n")
    with pytest.raises(DataError, match=r"x\.csv, line 2"):
        list(read_csv(tmp_path / "x.csv", 3))
