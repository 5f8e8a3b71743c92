"""Runs in processes of their own: failures, interruptions, and what is not repeated."""

import os
import signal
import subprocess
import sys
import time

import pytest
from filelock import FileLock

import fake_runs
from epic_pl.experiments import runs as module
from epic_pl.experiments.runs import Run, attempt, execute
from epic_pl.utils.errors import ConfigError


@pytest.fixture
def runs(tmp_path):
    return [fake_runs.run(tmp_path, name) for name in ("fine", "dies", "last")]


def test_a_run_that_was_killed_is_noted_and_the_others_go_on(runs, capsys):
    reports = []
    execute(runs, fake_runs.work, lambda: reports.append([run.ended for run in runs]))
    fine, dies, last = runs
    assert fine.result["accuracy"] == last.result["accuracy"] == 0.5
    assert (fine.result["name"], fine.result["seed"], fine.failure) == ("fine", 0, "")
    log = dies.folder / "log.txt"
    assert dies.failure == f"the process was killed, as when memory runs out (log: {log})"
    assert log.read_text() == "to the log\n"
    assert reports == [[True, False, False], [True, True, False]]
    assert f"2 of 3: dies, seed 0 failed: {dies.failure}" in capsys.readouterr().err


def test_each_run_has_the_environment_and_folder_of_its_time(tmp_path, monkeypatch):
    for name in ("one", "two", None):  # the server of their processes has started before
        monkeypatch.chdir(tmp_path if name is None else tmp_path.parent)
        if name is None:
            monkeypatch.delenv("PLACE")
        else:
            monkeypatch.setenv("PLACE", name)
        run = fake_runs.run(tmp_path, f"place {name}")
        execute([run], fake_runs.work)
        assert run.result["place"] == [name, os.getcwd()]


def test_an_error_is_told_in_one_line(tmp_path, capsys):
    run = fake_runs.run(tmp_path, "raises")
    assert attempt(run, fake_runs.work) == "ValueError: the prompt is too long"
    assert "Traceback" in capsys.readouterr().err


def test_finished_runs_are_reported_and_not_repeated(runs, monkeypatch):
    monkeypatch.setattr(module, "in_new_process", lambda run, work: work(run))
    for run in runs[::2]:
        run.folder.mkdir(parents=True)
        (run.folder / "result.json").write_text("{}")

    def damaged():
        raise ConfigError("damaged")

    with pytest.raises(ConfigError):  # before any run starts
        execute(runs, pytest.fail, damaged)
    done = []
    execute(runs, lambda run: done.append(run.name))
    assert done == ["dies"]


PARENT = """
import signal
import sys
from pathlib import Path
import fake_runs
from epic_pl.experiments.runs import execute
signal.signal(signal.SIGINT, signal.default_int_handler)  # under nohup it would be ignored
if __name__ == "__main__":
    runs = [fake_runs.run(Path(sys.argv[1]), name) for name in ("fine", "waits", "last")]
    execute(runs, fake_runs.work, lambda: print([run.ended for run in runs], flush=True))
"""


@pytest.mark.parametrize(
    "sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL]
)
def test_the_process_of_a_run_ends_with_its_parent_and_the_run_is_done_again(sent, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    runs = [fake_runs.run(tmp_path, name) for name in ("fine", "waits", "last")]
    started = runs[1].folder / "started"
    with subprocess.Popen(
        [sys.executable, script, tmp_path], env=os.environ | paths, stdout=subprocess.PIPE
    ) as parent:
        while not started.exists():
            time.sleep(0.02)
        parent.send_signal(sent)
        # the pipe ends with the last process that holds it
        reports = parent.stdout.read().decode().splitlines()
    assert parent.returncode == -sent if sent != signal.SIGINT else parent.returncode != 0
    assert reports == ["[True, False, False]"] * (2 if sent == signal.SIGINT else 1)
    assert not (runs[1].folder / "result.json").exists()
    before = (runs[0].folder / "result.json").stat().st_mtime_ns
    execute(runs, fake_runs.work)  # waits for a process that holds the lock of the run
    assert all(run.result for run in runs)
    assert (runs[0].folder / "result.json").stat().st_mtime_ns == before


def test_a_run_that_another_process_does_is_not_done_twice(runs, monkeypatch):
    monkeypatch.setattr(module, "_WAIT_S", 0.1)
    runs[0].folder.mkdir(parents=True)
    with FileLock(runs[0].folder / ".lock"):
        said = attempt(runs[0], pytest.fail)
    assert said == "another process is training in this folder: wait for it"


def test_a_run_is_printed_with_its_score(tmp_path):
    known = {"metrics": {"map": 0.25, "loss": 1.0}}
    assert str(Run("a", 1, (), tmp_path, known)) == "a, seed 1: test map 0.250"
