"""``epic-pl compare`` from the command line."""

import csv
import functools
import json
import sys

import fake_runs
import pyarrow.parquet as pq
import pytest

import tiny_runs
from epic_pl.errors import ConfigError
from epic_pl.experiments.compare import command, comparison
from epic_pl.experiments.compare.runner import Runner


@pytest.fixture
def compare(tmp_path, monkeypatch, tiny_vit_dir, tiny_tokenizer_dir):
    """The command on a tiny table."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("sys.argv", ["epic-pl"])
    tiny_runs.table(tmp_path / "data")
    tiny_runs.table_config(tmp_path / "data", tiny_vit_dir, tiny_tokenizer_dir)
    return lambda *options: command.run(["--config", "data/tiny.yaml", *options])


def test_two_methods_and_two_seeds_are_compared_and_not_trained_again(
    compare, tmp_path, monkeypatch, capfd
):
    tiny_runs.workers_here(monkeypatch)
    options = ["--methods", "epic,linear_probe", "--seeds", "2", "--cache.level", "boundary"]
    options += ["--cache.folder", "features", "--jobs", "2"]
    assert compare(*options) == 0
    output = tmp_path / "runs" / "compare" / "tiny"
    rows = json.loads((output / "comparison.json").read_text())
    accuracy = {row["method"]: row for row in rows if row["metric"] == "accuracy"}
    assert list(accuracy) == ["majority", "epic", "linear_probe"]
    for name, level in (("epic", "boundary"), ("linear_probe", "layers")):
        row = accuracy[name]
        assert (row["seeds"], row["status"], row["cache_level"]) == ([0, 1], "ok", level)
        assert len(row["values"]) == 2
    assert 0 < accuracy["linear_probe"]["p_value"] <= 1
    assert accuracy["majority"]["mean"] == pytest.approx(3 / 7)
    one, other = (
        pq.read_table(path / "predictions.parquet") for path in (output / "runs").glob("epic-*")
    )
    assert not one.equals(other)  # the seed of a run changes its result
    for name in ("comparison.md", "comparison.png"):
        assert (output / name).stat().st_size > 100
    assert "linear_probe" in capfd.readouterr().out

    files = {p: p.stat().st_mtime_ns for p in (output / "runs").rglob("*") if p.is_file()}
    assert compare(*options) == 0
    assert capfd.readouterr().err.count("finished before") == 4
    after = {p: p.stat().st_mtime_ns for p in (output / "runs").rglob("*") if p.is_file()}
    assert after == files
    assert json.loads((output / "comparison.json").read_text()) == rows


# writes its result, or interrupts the comparison once the earlier result is in the tables
FINISH_OR_INTERRUPT = """
import os, pathlib, signal, sys, time
folder, result, tables = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
if folder.name == "epic-0":
    (folder / "result.json").write_text(result)
else:
    while not all((tables / f"comparison.{kind}").exists() for kind in ("json", "md", "png")):
        time.sleep(0.02)
    (folder / "seen.json").write_bytes((tables / "comparison.json").read_bytes())
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)
"""


def test_tables_are_written_after_each_run_and_when_interrupted(tmp_path, monkeypatch, capsys):
    runs = [fake_runs.run(tmp_path, name) for name in ("epic", "lora", "full")]
    fake_runs.write_predictions(runs[0].folder, [0, 1, 2, 0], [0, 1, 2, 1])

    def start(run):
        result = json.dumps(fake_runs.result(run, 0.75))
        code = [sys.executable, "-c", FINISH_OR_INTERRUPT, str(run.folder), result]
        return [*code, str(tmp_path)]

    monkeypatch.setattr(comparison, "plan", lambda *_: runs)
    monkeypatch.setattr(comparison, "encode_once", lambda *_: "")
    monkeypatch.setattr(comparison, "Runner", functools.partial(Runner, command=start))
    assert command.run(["--methods", "epic,lora,full", "--output", str(tmp_path)]) == 130
    assert "Interrupted" in capsys.readouterr().err

    def accuracies(path):
        rows = json.loads(path.read_text())
        return {row["method"]: row for row in rows if row["metric"] == "accuracy"}

    seen = accuracies(runs[1].folder / "seen.json")
    assert (seen["epic"]["mean"], seen["epic"]["status"]) == (0.75, "ok")
    assert seen["lora"]["status"] == "seed 0 not run yet"
    last = accuracies(tmp_path / "comparison.json")
    assert last["epic"] == seen["epic"]
    assert last["lora"]["status"].startswith("seed 0 stopped: interrupted")
    assert last["full"]["status"] == "seed 0 not run yet"
    assert "Not complete" in (tmp_path / "comparison.md").read_text()
    monkeypatch.setattr(comparison, "plan", lambda *_: runs[1:])
    assert command.run(["--methods", "lora,full", "--output", str(tmp_path)]) == 130
    # without a finished run, the earlier tables stay
    assert accuracies(tmp_path / "comparison.json") == last


def test_each_method_is_tuned_once_and_runs_with_what_was_chosen(
    compare, tmp_path, monkeypatch, capfd
):
    tiny_runs.workers_here(monkeypatch)
    options = ["--methods", "linear_probe,late_fusion_mlp", "--seeds", "1", "--tune", "2"]
    options += ["--checkpoint.monitor", "null", "--cache.level", "boundary"]
    assert compare(*options, "--cache.folder", "features") == 0
    output = tmp_path / "runs" / "compare" / "tiny"
    notes = (output / "comparison.md").read_text()
    assert "Chosen by 2 trials on validation" in notes
    assert "once for all" in notes
    for name, option in (
        ("linear_probe", "optim.lr"),
        ("late_fusion_mlp", "method_options.hidden"),
    ):
        (path,) = (output / "tune").glob(f"{name}-*/trials.csv")
        with path.open() as file:
            rows = [row for row in csv.DictReader(file) if row["state"] == "complete"]
        best = max(rows, key=lambda row: float(row["val/accuracy"]))
        (folder,) = (output / "runs").glob(f"{name}-0-*")
        given = json.loads((folder / "run.json").read_text())["options"]
        assert f"--model.{option}={best[f'model.{option}']}" in given
    assert compare(*options, "--cache.folder", "features") == 0
    said = capfd.readouterr().err
    assert (said.count("trial 1 of 2"), said.count("finished before")) == (2, 4)


@pytest.mark.slow
def test_the_exit_code_is_one_if_every_run_failed(compare, tmp_path):
    (tmp_path / "data" / "pictures" / "train1.png").unlink()
    assert compare("--methods", "epic", "--seeds", "1", "--output", "out") == 1
    (row,) = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert row["mean"] is None
    assert row["status"].startswith("seed 0 failed: DataError: ")
    assert "train1.png" in row["status"]
    (log,) = tmp_path.glob("out/runs/epic-0-*/log.txt")
    assert row["status"].endswith(f"(log: {log})")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "0"], "--seeds is 0"),
        (["--jobs", "0"], "--jobs is 0"),
        (["--variants", "nowhere.yaml"], r"nowhere\.yaml cannot be read"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        command.run(options)
