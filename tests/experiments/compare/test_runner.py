"""Processes: order, devices, failures, and the budget. What runs here trains nothing."""

import json
import sys
import textwrap

import fake_runs
import pytest

from epic_pl.experiments.compare import runner
from epic_pl.experiments.compare.runner import Runner, devices, failure


class Silent:
    """Keeps what it is told."""

    def __init__(self):
        self.order = []

    def started(self, run):
        self.order.append(run.folder.name)

    def ended(self, outcome):
        pass

    def tick(self):
        pass


def _command(code):
    """Python that has the run's folder in ``folder`` and its key in ``key``."""
    head = (
        "import json, os, pathlib, sys, time; folder, key = pathlib.Path(sys.argv[1]), sys.argv[2]"
    )
    text = f"{head}\n{textwrap.dedent(code)}"
    return lambda run: [sys.executable, "-c", text, str(run.folder), run.key]


FINISH = "(folder / 'result.json').write_text(json.dumps({'key': key, **dict(os.environ)}))\n"


@pytest.fixture
def runs(tmp_path):
    return [fake_runs.run(tmp_path, name, seed) for seed in (0, 1) for name in ("epic", "lora")]


def test_what_is_done_is_not_run_again(runs):
    watch = Silent()
    first = Runner([None], None, watch, _command(FINISH)).execute(runs[1:2])
    assert [outcome.state for outcome in first] == ["done"]
    outcomes = Runner([None], None, watch, _command(FINISH)).execute(runs)
    assert [outcome.run for outcome in outcomes] == runs
    assert {outcome.state for outcome in outcomes} == {"done"}
    assert watch.order == ["lora-0", "epic-0", "epic-1", "lora-1"]


def test_a_result_of_other_options_does_not_count_and_goes(runs):
    run = runs[0]
    run.prepare()
    (run.folder / "checkpoints").mkdir()
    (run.folder / "run.json").write_text(json.dumps({"key": "of before"}))
    (run.folder / "result.json").write_text(json.dumps({"key": "of before"}))
    assert run.result() is None
    run.prepare()
    assert [path.name for path in run.folder.iterdir()] == ["run.json"]


def test_what_a_killed_run_left_stays(runs):
    runs[0].prepare()
    (runs[0].folder / "checkpoints").mkdir()
    runs[0].prepare()
    assert (runs[0].folder / "checkpoints").is_dir()


def test_a_failure_is_told_and_the_others_go_on(runs):
    code = """
        if folder.name == "epic-0":
            print("started", file=sys.stderr)
            raise ValueError("the prompt is too long")
        if folder.name == "lora-0":
            os.kill(os.getpid(), 9)
        if folder.name == "epic-1":
            sys.exit(0)
    """
    outcomes = Runner([None], None, Silent(), _command(textwrap.dedent(code) + FINISH)).execute(
        runs
    )
    assert [outcome.state for outcome in outcomes] == ["failed", "failed", "failed", "done"]
    log = runs[0].folder / "log.txt"
    assert outcomes[0].message == f"failed: ValueError: the prompt is too long (log: {log})"
    assert "SIGKILL, as when memory runs out" in outcomes[1].message
    # exit code 0 without a result is none
    assert "exit code 0, nothing said" in outcomes[2].message
    assert "Traceback" in log.read_text()


def test_the_line_that_names_the_error_is_found(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text(
        "Error-free so far\nepic-pl: DataError: row 3 of table.csv\nSome farewell of a library\n"
    )
    assert failure(1, log) == f"failed: DataError: row 3 of table.csv (log: {log})"
    log.write_text("  File x\ntorch.OutOfMemoryError: CUDA out of memory.\nTried to allocate\n")
    assert failure(1, log).startswith("failed: torch.OutOfMemoryError: CUDA out of memory.")
    log.write_text("Bus fault\n\n")
    assert failure(1, log).startswith("failed: Bus fault (")


def test_when_the_budget_is_spent_runs_are_stopped_and_none_is_started(runs):
    code = "if folder.name == 'lora-0': time.sleep(60)\n" + FINISH
    runs[0].folder.mkdir(parents=True)
    (runs[0].folder / "result.json").write_text(json.dumps({"key": runs[0].key}))
    outcomes = Runner([None], 1.0, Silent(), _command(code)).execute(runs)
    assert [o.state for o in outcomes] == ["done", "stopped", "not run", "not run"]
    assert "budget spent" in outcomes[1].message
    assert outcomes[2].message == "not run: budget spent"
    assert not runs[2].folder.exists()


def test_a_stopped_comparison_leaves_no_process(runs, monkeypatch):
    class Impatient(Silent):
        def tick(self):
            raise KeyboardInterrupt

    started = []

    def command(run):
        started.append(run)
        return [sys.executable, "-c", "import time; time.sleep(60)"]

    impatient = Runner([None], None, Impatient(), command)
    with pytest.raises(KeyboardInterrupt):
        impatient.execute(runs)
    assert len(started) == 1
    assert not impatient._active


def test_every_slot_has_a_device(runs, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices(3) == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7")
    assert devices(2) == ["4", "GPU-7"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert devices(2) == [None, None]
    # both slots are in use before the first is free again
    code = "time.sleep(1)\n" + FINISH
    watch = Silent()
    outcomes = Runner(["4", "GPU-7"], None, watch, _command(code)).execute(runs[:2])
    assert [o.result["CUDA_VISIBLE_DEVICES"] for o in outcomes] == ["4", "GPU-7"]


def test_the_worker_is_a_module_of_its_own(runs):
    assert runner.worker_command(runs[0])[1:3] == ["-m", "epic_pl.experiments.compare.worker"]
