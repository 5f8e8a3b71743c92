"""Processes: devices and failures. Nothing is trained."""

import sys
import textwrap

import fake_runs
import pytest

from epic_pl.experiments.compare.runner import Runner, devices, failure
from epic_pl.utils.errors import ConfigError


def _command(code):
    """Python code that has the run's folder in ``folder``."""
    head = "import json, os, pathlib, sys, time; folder = pathlib.Path(sys.argv[1])"
    text = f"{head}\n{textwrap.dedent(code)}"
    return lambda run: [sys.executable, "-c", text, str(run.folder)]


FINISH = "(folder / 'result.json').write_text(json.dumps(dict(os.environ)))\n"


@pytest.fixture
def runs(tmp_path):
    return [fake_runs.run(tmp_path, name, seed) for seed in (0, 1) for name in ("epic", "lora")]


def test_failures_are_reported_and_the_other_runs_go_on(runs):
    code = """
        if folder.name == "epic-0":
            print("started", file=sys.stderr)
            raise ValueError("the prompt is too long")
        if folder.name == "lora-0":
            os.kill(os.getpid(), 9)
        if folder.name == "epic-1":
            sys.exit(0)
    """
    outcomes = Runner(runs, 1, _command(textwrap.dedent(code) + FINISH)).execute()
    assert [outcome.run for outcome in outcomes] == runs
    assert [outcome.result is None for outcome in outcomes] == [True, True, True, False]
    log = runs[0].folder / "log.txt"
    assert outcomes[0].message == f"failed: ValueError: the prompt is too long (log: {log})"
    assert "SIGKILL, as when memory runs out" in outcomes[1].message
    # exit code 0 without a result is a failure
    assert "exit code 0, empty log" in outcomes[2].message
    assert "Traceback" in log.read_text()


def test_the_line_of_the_log_that_names_the_error_is_found(tmp_path):
    log = tmp_path / "log.txt"
    for text, message in (
        ("Error-free so far\nepic-pl: DataError: row 3\nSome last line\n", "DataError: row 3 ("),
        ("Traceback\ntorch.OutOfMemoryError: CUDA\n", "torch.OutOfMemoryError: CUDA"),
        ("Bus fault\n\n", "Bus fault ("),
    ):
        log.write_text(text)
        assert failure(1, log).startswith(f"failed: {message}")


def test_every_slot_has_a_device(runs, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert devices(2) == [None, None]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices(3) == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7")
    # both slots are in use before the first is free again
    wait = "while len(list(folder.parent.iterdir())) < 2: time.sleep(0.01)\n"
    outcomes = Runner(runs[:2], 2, _command(wait + FINISH)).execute()
    assert [o.result["CUDA_VISIBLE_DEVICES"] for o in outcomes] == ["4", "GPU-7"]


def test_finished_runs_are_reported_before_others_start(runs):
    runs[0].folder.mkdir(parents=True)
    (runs[0].folder / "result.json").write_text("{}")

    def report(outcomes):
        assert [outcome.result is None for outcome in outcomes] == [False, True, True, True]
        raise ConfigError("damaged")

    with pytest.raises(ConfigError):
        Runner(runs, 1, _command(FINISH), report).execute()
    assert not runs[1].folder.exists()
