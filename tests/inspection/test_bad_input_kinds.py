"""Kinds of bad input through ``epic-pl data check``: a line of the report or one clear error.

Never a traceback, never a row that is left out in silence. Each kind says the exit code and what is
said; kinds that are read all the same (a scan in CMYK, a byte order mark) say so by exit code 0 and
no word. The same kinds on ``fit`` are in tests/data/test_table_bad_rows.py and test_images.py.
"""

import io
import json
import re
import struct
import zlib

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from epic_pl.cli import main

SPLITS = ["train"] * 8 + ["val"] * 2 + ["test"] * 2
ROWS = 12


def _csv(change=lambda rows: rows, mark=","):
    rows = [
        {
            "id": f"id{i}",
            "image": f"{i}.png",
            "text": f"text {i}",
            "label": ("cat", "ice cream")[i % 2],  # a blank within a label is at home there
            "split": SPLITS[i],
        }
        for i in range(ROWS)
    ]
    rows = change(rows)
    return "".join(mark.join(row) + "\n" for row in [list(rows[0]), *(r.values() for r in rows)])


def _cell(row, column, value):
    def change(rows):
        rows[row][column] = value
        return rows

    return _csv(change).encode()


def _column(column, values):
    def change(rows):
        for row, value in zip(rows, values, strict=True):
            row[column] = value
        return rows

    return _csv(change).encode()


def _image(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _bomb():
    """A few bytes that claim 30,000 x 30,000 pixels."""
    chunks = b""
    for kind, data in (
        (b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)),
        (b"IDAT", b""),
        (b"IEND", b""),
    ):
        check = struct.pack(">I", zlib.crc32(kind + data))
        chunks += struct.pack(">I", len(data)) + kind + data + check
    return b"\x89PNG\r\n\x1a\n" + chunks


PNG = _image(Image.effect_noise((64, 64), 80), "PNG")
BLUE, RED = (Image.new("RGB", (40, 40), colour) for colour in ("blue", "red"))
DEEP = Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40) * 40)

# what 3.png is, exit code, what is said of it
PICTURES = {
    "truncated": (PNG[:900], 1, "1 pictures are corrupt.*train 3: .*3.png cannot be read"),
    "zero bytes": (b"", 1, "1 pictures are corrupt.*train 3: .*empty \\(0 bytes\\)"),
    "web page": (b"<!DOCTYPE html><p>404", 1, "1 pictures are corrupt.*starts with '<!DOCTYPE"),
    "bomb": (_bomb(), 1, "1 pictures are corrupt.*too large: .*900000000 pixels"),
    "vector graphics": (b"<svg xmlns='x'/>", 1, "1 pictures are corrupt.*none of JPEG"),
    "no allowed format": (_image(BLUE, "PPM"), 1, "1 pictures are corrupt.*none of JPEG"),
    "pixels of floats": (_image(Image.new("F", (40, 40)), "TIFF"), 1, "are corrupt.*floats"),
    "missing": (None, 1, "1 pictures are missing.*train 3: .*3.png does not exist"),
    "wrong extension": (_image(BLUE, "JPEG"), 0, ""),
    "CMYK": (_image(BLUE.convert("CMYK"), "JPEG"), 0, ""),
    "16 bit": (_image(DEEP, "PNG"), 0, ""),
    "palette": (_image(BLUE.convert("P"), "PNG", transparency=0), 0, ""),
    "animated": (_image(BLUE, "GIF", save_all=True, append_images=[RED]), 0, ""),
    "one bit": (_image(BLUE.convert("1"), "TIFF"), 0, ""),
}
# the table's name and bytes, options, exit code, what is said of it
SPLIT = "--data.init_args.split_column=split"
SOUND = _csv()
TABLES = {
    "address for a path": ("t.csv", _cell(3, "image", "https://x.org/3.png"), [], 1, "train 3: "),
    "traversal": ("t.csv", _cell(3, "image", "../x.png"), [], 1, "1 pictures lie outside"),
    "absolute path": ("t.csv", _cell(3, "image", "/etc/passwd"), [], 1, "1 pictures lie outside"),
    "nul in a path": ("t.csv", _cell(3, "image", "3\0.png"), [], 1, "missing.*null"),
    "path of a folder": ("t.csv", _cell(3, "image", "sub"), [], 1, "missing.*Is a directory"),
    "link out of the root": ("t.csv", _cell(3, "image", "link.png"), [], 1, "lie outside"),
    "link in a circle": ("t.csv", _cell(3, "image", "circle.png"), [], 1, "are missing"),
    "picture in two splits": ("t.csv", _cell(9, "image", "1.png"), [], 0, "in more than one split"),
    "empty text": ("t.csv", _cell(3, "text", " "), [], 0, "1 texts are empty"),
    "no modality": (
        "t.csv",
        _cell(3, "image", "").replace(b"text 3", b""),
        [],
        1,
        "neither.*row 3",
    ),
    "byte order mark": ("t.csv", b"\xef\xbb\xbf" + SOUND.encode(), [], 0, ""),
    "quoted line break": ("t.csv", _cell(3, "text", '"two\nlines"'), [], 0, ""),
    "open quote": ("t.csv", _cell(3, "text", '"open'), [], 1, "row that begins at line 5 a quote"),
    "other separator": ("t.csv", _csv(mark=";").encode(), [], 0, ""),
    "not UTF-8": ("t.csv", _cell(3, "text", "café").replace(b"\xc3\xa9", b"\xe9"), [], 1, "line 5"),
    "UTF-16": ("t.csv", SOUND.encode("utf-16"), [], 1, "iconv -f UTF-16LE"),
    "row too long": (
        "t.csv",
        SOUND.encode() + b"a,b,c,d,e,f\n",
        [],
        1,
        "Expected 5 columns, got 6",
    ),
    "zero bytes": ("t.csv", b"", [], 1, r"empty \(0 bytes\)"),
    "header only": ("t.csv", SOUND.split("\n")[0].encode() + b"\n", [], 1, "has no rows"),
    "empty list": ("t.json", b"[]", [], 1, "has no rows"),
    "column twice": (
        "t.csv",
        SOUND.replace("id,", "text,", 1).encode(),
        [],
        1,
        "columns named 'text'",
    ),
    "another format": ("t.xlsx", b"PK", [], 1, "ends in '.xlsx'"),
    "broken parquet": ("t.parquet", b"PAR1 not really", [], 1, "cannot be read"),
    "label nan": ("t.csv", _cell(3, "label", "nan"), [], 1, "'nan' in column 'label'.*row 3"),
    "label absent": ("t.csv", _cell(3, "label", ""), [], 1, "no label in row 3"),
    "label with blanks": ("t.csv", _cell(3, "label", "cat "), [], 1, "'cat '.*blanks.*row 3"),
    "labels that differ in case": ("t.csv", _cell(3, "label", "Cat"), [], 0, "differ in case"),
    "labels of several types": (
        "t.json",
        json.dumps([{"image": "0.png", "text": "x", "label": v} for v in (1, "a")]).encode(),
        [],
        1,
        "'label' is int in item 0 and str in item 1",
    ),
    "unknown label": (
        "t.csv",
        _cell(3, "label", "dgo"),
        ["--data.init_args.classes=[cat, ice cream]"],
        1,
        r"'dgo' \(row 3.*none of the 2 classes",
    ),
    "one class": ("t.csv", _column("label", ["cat"] * ROWS), [], 1, "one class only"),
    "class missing from train": ("t.csv", _cell(9, "label", "dog"), [SPLIT], 1, "'dog'.*row 9"),
    "duplicate id": (
        "t.csv",
        _cell(3, "id", "id1"),
        ["--data.init_args.id_column=id"],
        1,
        r"ids repeat: rows 1 \('id1'\), 3",
    ),
    "unknown column": (
        "t.csv",
        SOUND.encode(),
        ["--data.init_args.label_column=lable"],
        1,
        "no column 'lable'.*mean 'label'",
    ),
    "split typo": ("t.csv", _cell(3, "split", "trian"), [SPLIT], 1, r"row 3 \('trian'\)"),
    "no training rows": ("t.csv", _column("split", ["val"] * ROWS), [SPLIT], 1, "no training rows"),
    "split that is empty": (
        "t.csv",
        SOUND.replace(",val\n", ",test\n").encode(),
        [SPLIT, "--data.init_args.val_size=0"],
        1,
        "The val split is empty",
    ),
}


@pytest.fixture
def check(tmp_path, monkeypatch, tiny_vit_dir, tiny_tokenizer_dir, capsys):
    """Runs a check of a table; gives exit code, all that was said, and the rows that it read."""
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    (folder / "sub").mkdir(parents=True)
    for i in range(ROWS):
        Image.new("RGB", (40, 40), (i * 20, 0, 0)).save(folder / f"{i}.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "x.png")
    (folder / "link.png").symlink_to(tmp_path / "x.png")
    (folder / "circle.png").symlink_to("circle.png")

    def run(name, content, *options):
        (folder / name).write_bytes(content)
        arguments = [
            f"--data.init_args.table={folder / name}",
            f"--model.encoders.image.name={tiny_vit_dir}",
            f"--model.encoders.text.name={tiny_tokenizer_dir}",
        ]
        split = [SPLIT] if name == "t.csv" and not options else []
        with pytest.raises(SystemExit) as stop:
            main(["data", "check", "--config=table.yaml", *arguments, *split, *options])
        said = capsys.readouterr()
        rows = tmp_path / "runs" / "data_check" / "manifest.parquet"
        return (
            stop.value.code,
            said.out + said.err,
            pq.read_table(rows).num_rows if rows.exists() else None,
        )

    run.folder = folder
    return run


def _judge(result, code, said):
    found, text, rows = result
    assert found == code, text
    assert "Traceback" not in text
    assert re.search(said, text, re.DOTALL), text
    if rows is None:
        (error,) = re.findall(r"^epic-pl: .*", text, re.MULTILINE)
        assert re.match(r"epic-pl: (Data|Config)Error: ", error)
    else:
        assert rows == ROWS  # none was left out in silence
    if not said:
        assert not re.search(r"^(error|warning): ", text, re.MULTILINE), text


@pytest.mark.parametrize("kind", PICTURES)
def test_a_bad_picture_is_a_line_of_the_report(check, kind):
    content, code, said = PICTURES[kind]
    if content is None:
        (check.folder / "3.png").unlink()
    else:
        (check.folder / "3.png").write_bytes(content)
    _judge(check("t.csv", SOUND.encode()), code, said)


@pytest.mark.parametrize("kind", TABLES)
def test_a_bad_table_is_a_line_of_the_report_or_one_error(check, kind):
    name, content, options, code, said = TABLES[kind]
    _judge(check(name, content, *options), code, said)


def test_a_picture_that_may_not_be_read_is_a_line_of_the_report(check, monkeypatch):
    opened = io.open

    def refuse(file, *args, **kwargs):  # permissions do not bind the root user
        if str(file).endswith("3.png"):
            raise PermissionError(13, "Permission denied", str(file))
        return opened(file, *args, **kwargs)

    monkeypatch.setattr(io, "open", refuse)
    monkeypatch.setattr("builtins.open", refuse)
    _judge(check("t.csv", SOUND.encode()), 1, "train 3: .*3.png cannot be read: Permission denied")
