"""``epic-pl compare`` from the command line."""

import csv
import json

import pyarrow.parquet as pq
import pytest
from jsonargparse import ArgumentError

import tiny_runs
from epic_pl.cli.main import call
from epic_pl.utils.errors import ConfigError, DataError


@pytest.fixture
def compare(config, monkeypatch):
    """The command on a tiny table."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *options: call("compare", ["--config", config, *options])


def test_an_error_of_the_table_is_one_line(compare, config, tmp_path):
    with tiny_runs.changed_rows(tmp_path / "data" / "table.csv") as rows:
        rows[-1]["label"] = "unheard of"
    with pytest.raises(DataError, match="Labels unknown in training: 'unheard of'"):
        compare("--methods", "LinearProbe")


@pytest.mark.slow
def test_methods_are_tuned_trained_and_compared_and_nothing_is_done_twice(
    compare, tmp_path, monkeypatch, capfd
):
    tiny_runs.workers_here(monkeypatch)
    (tmp_path / "head.yaml").write_text("no: space")  # what lies here is not read
    output = tmp_path / "[/red]"  # no markup
    options = ["--methods", "EPIC,LinearProbe", "--seeds", "2", "--tune", "2"]
    options += ["--cache.level", "tokens"]
    options += ["--cache.folder", "features", "--output", str(output)]
    assert compare(*options) == 0
    rows = json.loads((output / "comparison.json").read_text())
    accuracy = {row["method"]: row for row in rows if row["metric"] == "accuracy"}
    assert list(accuracy) == ["majority", "EPIC", "LinearProbe"]
    for name, option in (("EPIC", "prompt_lr"), ("LinearProbe", "lr")):
        row = accuracy[name]
        assert (row["seeds"], row["status"], row["cache_level"]) == ([0, 1], "ok", "layers")
        assert len(row["values"]) == 2
        (path,) = (output / "tune").glob(f"{name}-*/trials.csv")
        with path.open() as file:
            trials = [trial for trial in csv.DictReader(file) if trial["state"] == "complete"]
        best = max(trials, key=lambda trial: float(trial["val/accuracy"]))
        for folder in (output / "runs").glob(f"{name}-*"):
            given = json.loads((folder / "result.json").read_text())["options"]
            assert f"--model.optim.{option}={best[f'model.optim.{option}']}" in given
    assert 0 < accuracy["LinearProbe"]["p_value"] <= 1
    assert accuracy["majority"]["mean"] == pytest.approx(3 / 7)
    one, other = (
        pq.read_table(path / "predictions.parquet") for path in (output / "runs").glob("EPIC-*")
    )
    assert not one.equals(other)  # the seed of a run changes its result
    notes = (output / "comparison.md").read_text()
    assert "Chosen by 2 trials on validation" in notes
    assert "Storing the features took" in notes
    assert (output / "comparison.png").stat().st_size > 100
    said = capfd.readouterr()
    assert len(list(output.glob("tune/*/trials/*"))) == 4
    assert "LinearProbe" in said.out
    assert f"{output}/comparison.md" in said.out

    def files():
        return {p: p.stat().st_mtime_ns for p in (output / "runs").rglob("*") if p.is_file()}

    before = files()
    assert compare(*options) == 0
    said = capfd.readouterr().err
    assert len(list(output.glob("tune/*/trials/*"))) == 4
    assert "4 runs, 4 finished before" in said
    assert files() == before
    assert json.loads((output / "comparison.json").read_text()) == rows


@pytest.mark.slow
def test_the_exit_code_is_one_if_every_run_failed(compare, tmp_path):
    assert compare("--methods", "EPIC", "--seeds", "1", "--trainer.precision", "16-true") == 1
    output = tmp_path / "runs" / "compare" / "tiny"
    (row,) = json.loads((output / "comparison.json").read_text())
    assert row["mean"] is None
    assert row["status"].startswith("seed 0 failed: ")
    (log,) = output.glob("runs/EPIC-0-*/log.txt")
    assert row["status"].endswith(f"(log: {log})")


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        (["--seeds", "0"], "seeds"),
        (["--tune", "-1"], "tune"),
        (["--tune", "1", "--splits"], "--tune"),
        (["--variants", "nowhere.yaml"], r"nowhere\.yaml cannot be read"),
    ],
)
def test_bad_options_are_refused(options, culprit):
    with pytest.raises((ArgumentError, ConfigError), match=culprit):
        call("compare", options)
