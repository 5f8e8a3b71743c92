"""Every figure of a check, on a table whose figures are known, and the exit code that follows."""

import json
import re
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

SPLITS = ["train"] * 12 + ["val"] * 4 + ["test"] * 3 + ["predict"] * 1
EVIL = "<script>alert('[red] & $x$')</script>"
LABELS = [*["cat"] * 7, *[EVIL] * 5, "cat", *[EVIL] * 4, "cat", "cat", None]
# words, each of one token, beside [CLS] and [SEP]; None and 0 are absent
WORDS = [3, 7, 4, 9, 0, None, 11, 7, 20, 30, 8, 10, 3, 6, 7, 8, 6, 7, 9, 10]
SHORT = 40 + np.arange(20)  # pixels
MISSING, CORRUPT, NO_IMAGE = 2, 3, 6


@pytest.fixture
def table(folder):
    with (folder / "t.jsonl").open("w") as table:
        for row, words in enumerate(WORDS):
            image = Image.new("RGB", (int(SHORT[row]), 90), (row * 12, 0, 0))
            image.save(folder / f"{row}.png")
            cells = {
                "image": None if row == NO_IMAGE else f"{row}.png",
                "text": None if words is None else "one " * words,
                "label": LABELS[row],
                "split": SPLITS[row],
            }
            table.write(json.dumps(cells) + "\n")
    (folder / f"{MISSING}.png").unlink()
    (folder / f"{CORRUPT}.png").write_bytes(b"<html>")
    shutil.copy(folder / "1.png", folder / "7.png")  # same text too, of another label
    shutil.copy(folder / "0.png", folder / "12.png")  # in val, same text too
    shutil.copy(folder / "8.png", folder / "16.png")  # in test, another text
    return folder / "t.jsonl"


def _cells(out, split):
    (line,) = [line for line in out.splitlines() if re.match(rf"[│|] {split} ", line)]
    return [int(number) for number in re.findall(r"\d+", line)]


def test_every_figure_is_that_of_the_table(table, tiny, told, tmp_path):
    given = (f"table={table}", "split_column=split", "max_text_tokens=12")
    options = [f"--data.init_args.{option}" for option in given]
    code, out, _ = told("data", "check", "--config=table.yaml", *options, *tiny, "--output=out")
    assert code == 1
    assert "Training cannot start: 2 errors." in out
    assert "error: Rows whose image is corrupt: 1\n    train 3: " in out
    assert (
        "warning: Images, by content, in more than one split: 2 (4 rows)\n"
        "    train 0.png = val 12.png\n    train 8.png = test 16.png\n"
    ) in out
    assert f"    train cat = train {EVIL}\n" in out  # no markup
    assert len(re.findall(r"^error: ", out, re.M)) == 2
    # rows, classes, distinct images, no image, no text
    assert _cells(out, "train") == [12, 2, 11, 1, 2]
    assert _cells(out, "val") == [4, 2, 4, 0, 0]
    assert _cells(out, "test") == [3, 2, 3, 0, 0]
    assert _cells(out, "predict") == [1, 0, 1, 0, 0]

    tokens = np.array([words + 2 for words in WORDS if words])
    assert (
        f"Texts have {np.median(tokens):.0f} tokens (median), 95% at most "
        f"{np.percentile(tokens, 95):.0f}; {(tokens > 12).mean():.1%} are truncated at 12"
    ) in out
    sides = SHORT.copy()
    sides[[7, 12, 16]] = sides[[1, 0, 8]]
    sides = np.delete(sides, [MISSING, CORRUPT, NO_IMAGE])
    assert (
        f"Images have a shorter side of {np.median(sides):.0f} pixels (median), 95% at least "
        f"{np.percentile(sides, 5):.0f}; from 40 to 59"
    ) in out

    page = (tmp_path / "out" / "report.html").read_text()
    assert "Training cannot start: 2 errors." in page
    assert "<td>cat</td><td>7</td><td>1</td><td>2</td><td>0</td>" in page  # by split
    escaped = "&lt;script&gt;alert(&#39;[red] &amp; $x$&#39;)&lt;/script&gt;"
    assert f"<td>{escaped}</td><td>5</td><td>3</td><td>1</td><td>0</td>" in page
    assert page.count(escaped) > 6  # in examples and samples, too
    assert "<script" not in page
    assert "http" not in page  # it needs no other file
    assert page.count("data:image/jpeg;base64,") == 12  # samples
    rows = pq.read_table(tmp_path / "out" / "manifest.parquet").to_pylist()
    assert [row["kind"] for row in rows] == [None, None, "missing", "corrupt", *[None] * 16]
    assert [row["label"] for row in rows] == LABELS
    assert [row["tokens"] for row in rows] == [w + 2 if w else None for w in WORDS]
    assert (rows[9]["width"], rows[9]["height"]) == (49, 90)
    assert rows[1]["content"] == rows[7]["content"] != rows[0]["content"] == rows[12]["content"]
