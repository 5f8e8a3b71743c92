"""``epic-pl explain`` through the real command line."""

import pytest
from matplotlib.figure import Figure
from PIL import Image


@pytest.fixture
def explain(trained, told):
    """The command on the trained checkpoint."""
    given = ["explain", trained.checkpoint, "--config", trained.config]
    return lambda *options: told(*given, *options)


def test_files_of_chosen_samples(explain, tmp_path, recwarn):
    names = ["test3", "test1", "test2"]
    code, _, error = explain("--samples", ",".join(names), "--output", tmp_path)
    assert code == 0, error
    images = [f"{number:02}_{name}.png" for number, name in enumerate(names, start=1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*images, "index.html"]
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as image:
            assert image.width > 400
            assert image.height > 200
    page = (tmp_path / "index.html").read_text()
    assert "<script>" not in page
    assert "&lt;" in page
    assert page.count("<details") == 3 * 2  # two steps each
    assert "no text" in page
    assert "not which of them the prediction depends on" in page
    assert page.count("image alone") == page.count("text alone") == 1  # of the one with both
    assert page.count("data:image/svg+xml;base64,") == 3 * 2
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_samples_are_spread_over_the_split(explain, tmp_path, monkeypatch):
    drawing = "epic_pl.inference.explain.figures.draw_explanation"
    monkeypatch.setattr(drawing, lambda *_, **__: Figure())
    assert explain("--count", "2", "--split", "val", "--output", tmp_path)[0] == 0
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["01_val0.png", "02_val2.png"]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (
            ["--samples", "test0,nobody"],
            "no sample nobody in this split: see --split. A sample of it is 'test0'.",
        ),
        (["--count", "0"], "0 does not conform"),
        (["--output", "data/table.csv"], "index.html cannot be written to data/table.csv"),
    ],
)
def test_bad_options_are_one_error_with_a_way_out(options, part, explain):
    code, _, error = explain(*options)
    assert code == 1
    assert part in error
