"""Quotes that are not closed: rows are refused by file and line, never swallowed."""

import warnings

import pytest

from epic_pl.data.tables.reader import read_table
from epic_pl.errors import DataError

PICTURES = "".join(f"{i}.png,text {i},{'cat' if i % 2 else 'dog'}\n" for i in range(6))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", 'a,b\n1,x\n2,"open\n3,y\n4,z', r"line 3 a quote is not closed.*doubled"),
        ("t.tsv", 'a\tb\n1\t"open\n2\ty\n3\t"z\n4\tw\n', r"line 2 a quote.*before the cell ends"),
        # closed by chance at the end of a later cell: Arrow and csv find nothing amiss
        ("t.tsv", 'a\tb\n1\t"open\n2\ty\n3\tz"\n4\tw\n', r"line 2 .* reads like 3 rows"),
        ("t.tsv", 'a\tb\n"1\tx\n2"\ty\n', r"line 2 .* reads like 2 rows"),
        (
            "t.csv",
            f'image,text,label\n{PICTURES}7.png,"a,cat\r\n8.png,b"",dog\n9.png,c",cat\n',
            "line 8 .* reads like 3 rows",
        ),
        (
            "t.csv",
            f'image,text,label\n{PICTURES}7.png,"a,cat\r\n8.png,b,dog\r\n9.png,c",cat\n',
            "line 8 .* reads like 3 rows",
        ),
        ("t.csv", 'a,b\n"1",2\n"3","4",5\n', "row at line 3 has 3 cells, not 2"),
        ("t.csv", 'a,b\n"1\n1",2\n\n"3"x,4\n', "line 5 a quote"),
        ("t.csv", "\ufeffsep=;\r\na;b\r\n1;2\r\n", "first line tells Excel.*delete that line"),
    ],
)
def test_what_would_swallow_rows_is_refused_with_its_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content.encode())
    with pytest.raises(DataError, match=message) as caught:
        read_table(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        'she said "no", and left\nfor good',
        "two\r\nlines",
        'a quote alone: "\n, and more, of it\n',
        "one, two\nthree\nfour, five",
        "x" * 200_000 + ",,\n",  # longer than csv takes by default
        "three\u2028lines, by\u2028Unicode alone",
    ],
)
def test_texts_of_several_lines_stay_whole(tmp_path, text):
    quoted = text.replace('"', '""')
    path = tmp_path / "t.csv"
    path.write_bytes(f'text,label\n"{quoted}",cat\nplain,dog\n'.encode())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_table(path)["text"].to_pylist() == [text, "plain"]


def test_prose_that_could_be_rows_is_read_with_a_warning(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('image,text,label\n0.png,"Hello,you\nand you,friend",cat\n1.png,x,dog\n')
    with pytest.warns(UserWarning, match=r"t\.csv: the row that begins at line 2 .* 2 rows"):
        assert read_table(path)["text"][0].as_py() == "Hello,you\nand you,friend"


def test_quotes_within_a_cell_are_letters(tmp_path):
    (tmp_path / "t.tsv").write_text('a\tb\n1\t5" wide\n2\tsay "x"\n')
    assert read_table(tmp_path / "t.tsv")["b"].to_pylist() == ['5" wide', 'say "x"']


@pytest.mark.parametrize(
    ("name", "header", "cells"),
    [
        ("t.csv", "image;Titel, kurz;label", ["image", "Titel, kurz", "label"]),
        ("t.csv", '"a;b;c",d', ["a;b;c", "d"]),
        ("t.tsv", "a,b\tc", ["a,b", "c"]),
        ("t.csv", "a|b|c", ["a", "b", "c"]),
        ("t.csv", "alone", ["alone"]),
    ],
)
def test_cells_are_separated_by_what_separates_most_of_the_header(tmp_path, name, header, cells):
    mark = next((mark for mark in ";\t|" if mark in header and '"' not in header), ",")
    (tmp_path / name).write_text(f"{header}\n{mark.join('x' * len(cells))}\n")
    assert read_table(tmp_path / name).column_names == cells
