"""Runs in processes of their own: how many at a time, on which device, and how they ended."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from epic_pl.experiments.compare.plan import Outcome, Run

LOG = "log.txt"
_POLL_S = 0.2
_GRACE_S = 20  # from SIGTERM to SIGKILL
_ERROR_LINE = re.compile(r"^(epic-pl: |[\w.]+(Error|Exception|Interrupt)\b)")


class _Active(NamedTuple):
    run: Run
    process: subprocess.Popen[bytes]
    slot: str | None
    log: IO[bytes]


def worker_command(run: Run) -> list[str]:
    """Command line of a run's process, which ends when this one does."""
    module = "epic_pl.experiments.compare.worker"
    return [sys.executable, "-m", module, str(run.folder), str(os.getpid())]


class Runner:
    """Does the unfinished runs, in order, and shows on stderr which are active and have ended.

    Args:
        runs: all runs.
        jobs: number of runs at a time, which share the visible CUDA devices.
        command: gives the command line of a run.
        report: is given all outcomes whenever a run has ended and others have not.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        jobs: int = 1,
        command: Callable[[Run], list[str]] = worker_command,
        report: Callable[[list[Outcome]], object] = lambda outcomes: None,
    ) -> None:
        self._runs, self._command, self._report = runs, command, report
        self._free = devices(jobs)
        self._active: list[_Active] = []
        self._outcomes: dict[Run, Outcome] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            speed_estimate_period=1e9,
        )

    def execute(self) -> list[Outcome]:
        """Do all runs and return their outcomes, in order.

        Raises:
            KeyboardInterrupt: as it is, after the active runs have ended and a last report.
        """
        for run in self._runs:
            if (result := run.result()) is not None:
                self._end(Outcome(run, result=result), ", finished before")
        pending = [run for run in self._runs if run not in self._outcomes]
        if pending and self._outcomes:
            self._report(self._all_outcomes())  # a damaged result ends this before new runs
        self._bar = self._progress.add_task("", total=len(pending))
        try:
            with self._progress:
                self._do(pending)
        except KeyboardInterrupt:
            self._report(self._all_outcomes())
            raise
        return self._all_outcomes()

    def _all_outcomes(self) -> list[Outcome]:
        return [
            self._outcomes.get(run) or Outcome(run, "not run yet", ended=False)
            for run in self._runs
        ]

    def _do(self, pending: list[Run]) -> None:
        try:
            while pending or self._active:
                while pending and self._free:
                    self._start(pending.pop(0))
                if self._collect() and (pending or self._active):
                    self._report(self._all_outcomes())
                time.sleep(_POLL_S)
        finally:
            self._stop_all()

    def _start(self, run: Run) -> None:
        run.prepare()
        slot = self._free.pop(0)
        log = (run.folder / LOG).open("ab")
        process = subprocess.Popen(
            self._command(run),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | ({} if slot is None else {"CUDA_VISIBLE_DEVICES": slot}),
        )
        self._active.append(_Active(run, process, slot, log))
        self._show_active()

    def _collect(self) -> bool:
        """Take in the runs that have ended, and say whether there are any."""
        ended = [active for active in self._active if active.process.poll() is not None]
        for active in ended:
            code = active.process.returncode
            result = active.run.result() if code == 0 else None
            message = "" if result is not None else failure(code, active.run.folder / LOG)
            self._release(active, Outcome(active.run, message, result))
        return bool(ended)

    def _stop_all(self) -> None:
        """End the runs that are active when the command is interrupted."""
        self._collect()
        for active in self._active:
            active.process.terminate()
        until = time.monotonic() + _GRACE_S
        for active in list(self._active):
            try:
                active.process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                active.process.kill()
                active.process.wait()
            message = "stopped: interrupted; the same command resumes it"
            self._release(active, Outcome(active.run, message, ended=False))

    def _release(self, active: _Active, outcome: Outcome) -> None:
        active.log.close()
        self._active.remove(active)
        self._free.append(active.slot)
        self._progress.advance(self._bar)
        self._show_active()
        self._end(outcome)

    def _show_active(self) -> None:
        names = "; ".join(f"{run.name}, seed {run.seed}" for run, *_ in self._active)
        self._progress.update(self._bar, description=names)

    def _end(self, outcome: Outcome, note: str = "") -> None:
        self._outcomes[outcome.run] = outcome
        line = f"{outcome.run.name}, seed {outcome.run.seed}: {outcome.message or _score(outcome)}"
        self._progress.console.print(line + note, markup=False, highlight=False, soft_wrap=True)


def devices(jobs: int) -> list[str | None]:
    """``CUDA_VISIBLE_DEVICES`` of each of ``jobs`` slots; None leaves it unchanged."""
    count = torch.cuda.device_count()
    if count == 0:
        return [None] * jobs
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = named.split(",") if named else [str(number) for number in range(count)]
    return [visible[slot % count] for slot in range(jobs)]


def failure(code: int, log: Path) -> str:
    """Why a process failed: the last line of its log that names an error, and the log's path."""
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if code < 0:
        name = signal.Signals(-code).name
        reason = f"ended by {name}" + (", as when memory runs out" if name == "SIGKILL" else "")
    else:
        errors = [line for line in lines if _ERROR_LINE.match(line)]
        reason = (errors or lines or [f"exit code {code}, empty log"])[-1]
    return f"failed: {reason.removeprefix('epic-pl: ')} (log: {log})"


def _score(outcome: Outcome) -> str:
    metrics = (outcome.result or {}).get("metrics", {})
    name = next((n for n in ("accuracy", "f1_micro") if n in metrics), None)
    return "done" if name is None else f"test {name} {metrics[name]:.3f}"
