"""``epic-pl compare`` from the command line."""

import csv
import json
import multiprocessing
import os
import signal
import sys

import fake_runs
import pyarrow.parquet as pq
import pytest
from jsonargparse import ArgumentError

import tiny_runs
from epic_pl.cli.main import call
from epic_pl.experiments.compare import comparison as module
from epic_pl.experiments.compare.comparison import Comparison
from epic_pl.experiments.compare.plan import Entry, Outcome
from epic_pl.experiments.compare.runner import Runner
from epic_pl.utils.errors import ConfigError


@pytest.fixture
def compare(config, monkeypatch):
    """The command on a tiny table."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *options: call("compare", ["--config", config, *options])


@pytest.mark.slow
def test_methods_are_tuned_trained_and_compared_and_nothing_is_done_twice(
    compare, tmp_path, monkeypatch, capfd
):
    tiny_runs.workers_here(monkeypatch)
    (tmp_path / "head.yaml").write_text("no: space")  # what lies here is not read
    output = tmp_path / "[/red]"  # no markup
    options = ["--methods", "epic,linear_probe", "--seeds", "2", "--tune", "2", "--jobs", "2"]
    options += ["--checkpoint.monitor", "null", "--cache.level", "boundary"]
    options += ["--cache.folder", "features", "--output", str(output)]
    assert compare(*options) == 0
    rows = json.loads((output / "comparison.json").read_text())
    accuracy = {row["method"]: row for row in rows if row["metric"] == "accuracy"}
    assert list(accuracy) == ["majority", "epic", "linear_probe"]
    for name, option in (("epic", "prompt_lr"), ("linear_probe", "lr")):
        row = accuracy[name]
        assert (row["seeds"], row["status"], row["cache_level"]) == ([0, 1], "ok", "layers")
        assert len(row["values"]) == 2
        (path,) = (output / "tune").glob(f"{name}-*/trials.csv")
        with path.open() as file:
            trials = [trial for trial in csv.DictReader(file) if trial["state"] == "complete"]
        best = max(trials, key=lambda trial: float(trial["val/accuracy"]))
        for folder in (output / "runs").glob(f"{name}-*"):
            given = json.loads((folder / "run.json").read_text())["options"]
            assert f"--model.optim.{option}={best[f'model.optim.{option}']}" in given
    assert 0 < accuracy["linear_probe"]["p_value"] <= 1
    assert accuracy["majority"]["mean"] == pytest.approx(3 / 7)
    one, other = (
        pq.read_table(path / "predictions.parquet") for path in (output / "runs").glob("epic-*")
    )
    assert not one.equals(other)  # the seed of a run changes its result
    notes = (output / "comparison.md").read_text()
    assert "Chosen by 2 trials on validation" in notes
    assert "Storing the features of `epic` took" in notes
    assert (output / "comparison.png").stat().st_size > 100
    said = capfd.readouterr()
    assert said.err.count("trial 1 of 2") == 2
    assert "linear_probe" in said.out
    assert f"{output}/comparison.md" in said.out

    def files():
        folders = (output / "runs", output / "tune")
        return {p: p.stat().st_mtime_ns for f in folders for p in f.rglob("*") if p.is_file()}

    before = files()
    assert compare(*options) == 0
    said = capfd.readouterr().err
    assert (said.count("trial 1 of 2"), said.count("finished before")) == (0, 2 + 4)
    assert files() == before
    assert json.loads((output / "comparison.json").read_text()) == rows


# finishes, but "lora" first kills the comparison, then interrupts it twice
WORKER = """
import os, pathlib, signal, sys, time
folder, started = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[1]) / "started"
with (folder / "starts").open("a") as file:
    file.write(f"{os.getpid()}\\n")
starts = len((folder / "starts").read_text().splitlines())
if folder.name == "lora-0" and starts < 4:
    while not started.exists():
        time.sleep(0.02)
    started.unlink()
    os.kill(os.getppid(), signal.SIGKILL if starts == 1 else signal.SIGTERM)
    time.sleep(0 if starts == 1 else 60)
else:
    (folder / "result.json").write_text(sys.argv[2])
"""


class FakeRunner(Runner):
    """Runs ``WORKER``, and marks the folder once the process is known here."""

    def __init__(self, runs, jobs, command, report):
        super().__init__(runs, jobs, self.command_line, report)

    def command_line(self, run):
        result = json.dumps(fake_runs.result(run, 0.75))
        return [sys.executable, "-c", WORKER, str(run.folder), result]

    def _start(self, run):
        super()._start(run)
        (run.folder / "started").touch()


def test_a_killed_or_interrupted_comparison_is_continued(tmp_path, monkeypatch):
    runs = [fake_runs.run(tmp_path, name) for name in ("epic", "lora", "full")]
    for run in runs:
        fake_runs.write_predictions(run.folder, [0, 1, 2, 0], [0, 1, 2, 1])
    options = ["--methods", "epic,lora,full", "--output", str(tmp_path)]
    monkeypatch.setattr(module, "Runner", FakeRunner)
    monkeypatch.setattr(module, "encode_once", lambda *_: "")
    monkeypatch.setattr(module, "plan", lambda *_: runs)

    def rows():
        written = json.loads((tmp_path / "comparison.json").read_text())
        return {row["method"]: row for row in written if row["metric"] == "accuracy"}

    def started(run):
        return (run.folder / "starts").read_text().split()

    killed = multiprocessing.get_context("fork").Process(target=call, args=("compare", options))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    first = rows()  # written when the first run had ended
    assert (first["epic"]["mean"], first["epic"]["status"]) == (0.75, "ok")
    assert first["lora"]["status"] == "seed 0 not run yet"
    assert (tmp_path / "comparison.png").exists()

    with pytest.raises(KeyboardInterrupt, match="the same command continues"):
        call("compare", options)
    last = rows()
    assert last["epic"] == first["epic"]
    stopped = "seed 0 stopped: interrupted; the same command resumes it"
    assert (last["lora"]["status"], last["full"]["status"]) == (stopped, "seed 0 not run yet")
    assert "Not complete" in (tmp_path / "comparison.md").read_text()
    with pytest.raises(ProcessLookupError):
        os.kill(int(started(runs[1])[-1]), 0)

    monkeypatch.setattr(module, "plan", lambda *_: runs[1:])
    with pytest.raises(KeyboardInterrupt):
        call("compare", options)
    assert rows() == last  # without a finished run, the earlier tables stay
    monkeypatch.setattr(module, "plan", lambda *_: runs)
    assert call("compare", options) == 0
    assert [row["status"] for row in rows().values()] == ["ok"] * 4  # with the majority
    assert [len(started(run)) for run in runs] == [1, 4, 1]


@pytest.mark.slow
def test_the_exit_code_is_one_if_every_run_failed(compare, tmp_path):
    (tmp_path / "data" / "images" / "train1.png").unlink()
    assert compare("--methods", "epic", "--seeds", "1") == 1
    output = tmp_path / "runs" / "compare" / "tiny"
    (row,) = json.loads((output / "comparison.json").read_text())
    assert row["mean"] is None
    assert row["status"].startswith("seed 0 failed: DataError: ")
    assert "train1.png" in row["status"]
    (log,) = output.glob("runs/epic-0-*/log.txt")
    assert row["status"].endswith(f"(log: {log})")


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        (["--seeds", "0"], '"seeds"'),
        (["--jobs=0"], '"jobs"'),
        (["--tune", "-1"], '"tune"'),
        (["--tune", "1", "--splits"], "--tune"),
        (["--variants", "nowhere.yaml"], r"nowhere\.yaml cannot be read"),
    ],
)
def test_bad_options_are_refused(options, culprit):
    with pytest.raises((ArgumentError, ConfigError), match=culprit):
        call("compare", options)


@pytest.mark.parametrize("chosen", [{"trainer.callbacks": ["trap.Trap"]}, ["trap"], None])
def test_a_search_of_others_chooses_no_other_option(chosen, config, tmp_path, monkeypatch):
    def execute(runner):
        return [Outcome(run, result={"chosen": chosen}) for run in runner._runs]

    monkeypatch.setattr(Runner, "execute", execute)
    comparison = Comparison([Entry("epic", "epic")], ["--config", config], tmp_path, trials=1)
    with pytest.raises(ConfigError, match=r"result\.json"):
        comparison.prepare()
