"""Bad input through ``epic-pl data check``: a line of the report or one clear error.

Never a traceback, never a row that is left out without a word. tests/data has more kinds of bad
tables and pictures.
"""

import io
import re

import pyarrow.parquet as pq
import pytest
from PIL import Image

from epic_pl.cli import main

SPLITS = ["train"] * 8 + ["val"] * 2 + ["test"] * 2
ROWS = 12


def _csv(change=lambda rows: rows):
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
    return "".join(",".join(row) + "\n" for row in [list(rows[0]), *(r.values() for r in rows)])


def _cell(row, column, value):
    def change(rows):
        rows[row][column] = value
        return rows

    return _csv(change).encode()


def _image(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


PNG = _image(Image.effect_noise((64, 64), 80), "PNG")
BLUE = Image.new("RGB", (40, 40), "blue")

# content of 3.png, and what is reported of it
PICTURES = {
    "truncated": (PNG[:900], "that is corrupt.*train 3: .*3.png cannot be read"),
    "zero bytes": (b"", "that is corrupt.*train 3: .*empty \\(0 bytes\\).*on_bad_sample"),
    "no allowed format": (_image(BLUE, "PPM"), "that is corrupt.*none of JPEG"),
    "CMYK and wrong extension": (_image(BLUE.convert("CMYK"), "JPEG"), ""),
}
# a changed cell, and what is reported of it
SPLIT = "--data.init_args.split_column=split"
CELLS = {
    "address for a path": ("image", "https://x.org/3.png", "train 3: "),
    "absolute path": ("image", "/etc/passwd", "that is outside"),
    "nul in a path": ("image", "3\0.png", "missing.*null"),
    "path of a folder": ("image", "sub", "missing.*Is a directory"),
    "link out of the root": ("image", "link.png", "that is outside"),
    "link in a circle": ("image", "circle.png", "that is missing"),
    "label nan": ("label", "nan", "'nan' in column 'label'.*row 3"),
    "split typo": ("split", "trian", r"row 3 \('trian'\)"),
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
    content, said = PICTURES[kind]
    (check.folder / "3.png").write_bytes(content)
    _judge(check("t.csv", _csv().encode()), 1 if said else 0, said)


@pytest.mark.parametrize("kind", CELLS)
def test_a_bad_cell_is_a_line_of_the_report_or_one_error(check, kind):
    column, value, said = CELLS[kind]
    _judge(check("t.csv", _cell(3, column, value)), 1, said)


def test_a_bad_table_is_one_error(check):
    _judge(check("t.parquet", b"PAR1 not really"), 1, "cannot be read")
    unknown = "--data.init_args.label_column=lable"
    _judge(check("t.csv", _csv().encode(), unknown), 1, "no column 'lable'")
    no_val = _csv().replace(",val\n", ",test\n").encode()
    result = check("t.csv", no_val, SPLIT, "--data.init_args.val_size=0")
    _judge(result, 1, "The val split has no usable row")
