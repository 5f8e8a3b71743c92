import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from rich.console import Console

from epic_pl.inspection.check import _ROWS, Findings
from epic_pl.inspection.problems import Problem
from epic_pl.inspection.report import print_summary, write_page

EVIL = "<script>alert('[red] & $x$')</script>"


@pytest.fixture
def findings(tmp_path):
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    row = dict.fromkeys(_ROWS.names) | dict.fromkeys(("sample_id", "text", "label"), EVIL)
    row |= {"split": "train", "image": "a.png", "width": 40, "height": 40, "tokens": 7}
    bad = ({}, {"image": None}, {"kind": "corrupt"})
    return Findings(
        name="Mine",
        class_names=[EVIL, "$b$ $"],
        rows=pa.Table.from_pylist([row | each for each in bad]),
        class_counts={"train": np.array([3, 1])},
        problems=[Problem("warning", EVIL, [EVIL])],
        max_text_tokens=5,
        image_roots={"train": tmp_path},
    )


def test_page_escapes_all_data_needs_no_other_file_and_is_summed_up(findings, tmp_path, capsys):
    page = write_page(findings, tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(&#39;[red] &amp; $x$&#39;)&lt;/script&gt;") >= 5
    assert "http" not in page
    assert page.count("data:image/png;base64,") == 2  # histograms
    assert page.count("data:image/jpeg;base64,") == 1  # the one sound sample
    print_summary(findings, Console(width=200))
    printed = capsys.readouterr().out
    assert f"warning: {EVIL}" in printed  # no markup
    assert "Training can start." in page
    assert "Training can start." in printed


def test_page_of_nothing_is_a_page(tmp_path):
    rows = _ROWS.empty_table().append_column("tokens", pa.array([], pa.int32()))
    problems = [Problem("error", "The train split cannot be built")]
    page = write_page(Findings("Mine", ["a"], rows, {}, problems), tmp_path / "r.html")
    assert "Training cannot start: 1 errors." in page.read_text()
