import csv

import pyarrow as pa
import pytest

from epic_pl.data.tables.formats import read_csv, write_csv
from epic_pl.utils.errors import DataError
from epic_pl.utils.untrusted import quoted, unquoted


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize(
    ("name", "delimiter"), [("t.csv", ";"), ("t.csv", "\t"), ("t.tsv", ","), ("t.parquet", ",")]
)
def test_a_table_is_written_like_another_csv_file(tmp_path, mark, name, delimiter):
    (tmp_path / name).write_bytes(mark + b"a;b;c\n" if delimiter == ";" else mark + b"a\tb\tc\n")
    write_csv(pa.table({"x": ["é;,"], "y": [0.5]}), tmp_path / "out.csv", tmp_path / name)
    written = f'"x"{delimiter}"y"\n"é;,"{delimiter}0.5\n'.encode()
    assert (tmp_path / "out.csv").read_bytes() == (mark if name == "t.csv" else b"") + written


# what a spreadsheet runs, numbers, and cells that have an apostrophe already
FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3+x", "@SUM(1)", "\t=1", "\r=1", "\n=1", "-a", "'=1"]
HARMLESS = ["-0.5", "+1", "-", "'", "'-5", "a=1", "", " -a", "1-a"]


def test_cells_that_a_spreadsheet_would_run_are_quoted_and_read_back(tmp_path):
    table = pa.table({"id": [*FORMULAS, *HARMLESS], "x": [-0.5] * 18})
    write_csv(table, tmp_path / "out.csv", None)
    with (tmp_path / "out.csv").open(newline="") as file:
        ids, numbers = zip(*list(csv.reader(file))[1:], strict=True)
    assert list(ids) == [*(f"'{cell}" for cell in FORMULAS), *HARMLESS]
    assert set(numbers) == {"-0.5"}
    assert read_csv(tmp_path / "out.csv")["id"].to_pylist() == table["id"].to_pylist()
    assert [unquoted(quoted(cell)) for cell in table["id"].to_pylist()] == table["id"].to_pylist()
    assert [quoted(cell) for cell in table["id"].to_pylist()] == list(ids)


def test_csv_without_a_header_keeps_commas_quotes_and_line_breaks_inside_quotes(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b'\xef\xbb\xbfa.jpg,"one, ""two""\nthree",pie\r\nb.jpg,,pie\r\n')
    assert read_csv(path, ("image", "title", "class")).to_pydict() == {
        "image": ["a.jpg", "b.jpg"],
        "title": ['one, "two"\nthree', ""],
        "class": ["pie", "pie"],
    }


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "utf-8"])
@pytest.mark.parametrize("blank", ["", "\r\n", "\n  \n;;\n"])
def test_encodings_and_blank_lines_of_spreadsheets_are_read(tmp_path, encoding, blank):
    path = tmp_path / "t.csv"
    path.write_bytes(f"{blank}bild;größe;art\r\na.jpg;1,5;katze\r\n".encode(encoding))
    assert read_csv(path).to_pydict() == {"bild": ["a.jpg"], "größe": ["1,5"], "art": ["katze"]}
    write_csv(pa.table({"x": ["é"], "y": ["b"]}), tmp_path / "out.csv", path)
    assert '"é";"b"' in (tmp_path / "out.csv").read_text("utf-8")


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
