import gzip

import pyarrow as pa
import pytest

from epic_pl.data.readers import (
    find_path,
    label_codes,
    read_csv,
    read_json,
    read_jsonl,
    require,
    write_csv,
)
from epic_pl.utils.errors import DataError


@pytest.mark.parametrize("place", ["b[1].csv", "un[packed/a.csv", "a.csv"])
def test_the_first_path_that_is_there_is_found_in_a_folder_or_one_below(tmp_path, place):
    (tmp_path / "un[packed").mkdir()
    (tmp_path / "b[1].csv").touch()
    (tmp_path / place).touch()
    assert find_path(tmp_path, ["a.csv", "b[1].csv"], "") == tmp_path / place


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize(
    ("name", "delimiter"), [("t.csv", ";"), ("t.csv", "\t"), ("t.tsv", ","), ("t.parquet", ",")]
)
def test_a_table_is_written_like_another_csv_file(tmp_path, mark, name, delimiter):
    (tmp_path / name).write_bytes(mark + b"a;b;c\n" if delimiter == ";" else mark + b"a\tb\tc\n")
    write_csv(pa.table({"x": ["é;,"], "y": [0.5]}), tmp_path / "out.csv", tmp_path / name)
    written = f'"x"{delimiter}"y"\n"é;,"{delimiter}0.5\n'.encode()
    assert (tmp_path / "out.csv").read_bytes() == (mark if name == "t.csv" else b"") + written


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


def test_require_names_the_first_row_without_a_value(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": "1"}\n{"img": "x"}\n{"img": "y"}\n')
    table = read_jsonl(path, ("id",))
    with pytest.raises(DataError, match=r"2 of 3 rows have no 'id', the first is row 1"):
        require(table, ("id",), path)


def test_label_codes_name_the_first_row_of_no_class(tmp_path):
    table = pa.table({"id": [*"abcd"], "label": ["x", None, "y", "maybe"]})
    assert label_codes(table.slice(0, 3), "label", "xy", "id", tmp_path).to_pylist() == [0, None, 1]
    with pytest.raises(DataError, match=r"1 of 4 rows have a label .*'maybe' of id 'd'"):
        label_codes(table, "label", "xy", "id", tmp_path)


@pytest.mark.parametrize(
    "content", [b"{", b"\xff\xfe", b"[1]", b'{"a": "cut \\ud83d"}', b"[" * 100_000]
)
def test_json_names_the_file_that_is_broken(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.json"):
        read_json(tmp_path / "x.json")


def test_csv_without_a_header_keeps_commas_quotes_and_line_breaks_inside_quotes(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b'\xef\xbb\xbfa.jpg,"one, ""two""\nthree",pie\r\nb.jpg,,pie\r\n')
    assert read_csv(path, ("image", "title", "class")).to_pydict() == {
        "image": ["a.jpg", "b.jpg"],
        "title": ['one, "two"\nthree', ""],
        "class": ["pie", "pie"],
    }


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", 'a,b\n1,x\n2,"open\n3,y\n4,z', r"line 3: unexpected end.*doubled"),
        ("t.tsv", 'a\tb\n1\t"open\n2\ty\n3\t"z\n4\tw\n', r"line 2: .* expected after"),
        ("t.csv", 'a,b\n"1\n1",2\n\n"3"x,4\n', "line 5: .* expected after"),
        ("t.csv", 'a,b\n"1",2\n"3","4",5\n', "line 3: 3 cells, not 2"),
        ("t.csv", "a,b\n1,2\n\n3\n", "line 4: 1 cells, not 2"),
        ("t.csv", "a,b,a\n1,2,3\n", "several columns named 'a'"),
        ("t.csv", b"a,b\n1,caf\xe9\n", r"not UTF-8, at line 1 or soon after.*iconv"),
    ],
)
def test_csv_names_file_and_line_of_what_is_broken(tmp_path, name, content, message):
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_csv(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        'she said "no", and left\nfor good',
        "two\r\nlines",
        "one, two\nthree\nfour, five",
        "x" * 200_000 + ",,\n",  # longer than csv takes by default
        "three\u2028lines, by\u2028Unicode alone",
    ],
)
def test_texts_of_several_lines_stay_whole(tmp_path, text):
    quoted = text.replace('"', '""')
    path = tmp_path / "t.csv"
    path.write_bytes(f'text,label\n"{quoted}",cat\nplain,dog\n'.encode())
    assert read_csv(path)["text"].to_pylist() == [text, "plain"]


@pytest.mark.parametrize(
    ("name", "header", "mark", "cells"),
    [
        ("t.csv", "image;Titel, kurz;label", ";", ["image", "Titel, kurz", "label"]),
        ("t.csv", '"a;b;c",d', ",", ["a;b;c", "d"]),
        ("t.tsv", "a,b\tc", "\t", ["a,b", "c"]),
        ("t.csv", "a|b|c", "|", ["a", "b", "c"]),
        ("t.csv", "alone", ",", ["alone"]),
    ],
)
def test_cells_are_separated_by_what_separates_most_of_the_header(
    tmp_path, name, header, mark, cells
):
    (tmp_path / name).write_text(f"{header}\n{mark.join('x' * len(cells))}\n")
    assert read_csv(tmp_path / name).column_names == cells
