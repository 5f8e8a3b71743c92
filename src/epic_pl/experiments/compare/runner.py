"""Runs in processes of their own: how many at a time, and on which device."""

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

from epic_pl.experiments.compare.plan import Outcome, Run
from epic_pl.experiments.compare.progress import LiveProgress

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


def devices(jobs: int) -> list[str | None]:
    """``CUDA_VISIBLE_DEVICES`` of each of ``jobs`` slots; None leaves it unchanged."""
    count = torch.cuda.device_count()
    if count == 0:
        return [None] * jobs
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = named.split(",") if named else [str(number) for number in range(count)]
    return [visible[slot % count] for slot in range(jobs)]


class Runner:
    """Does the unfinished runs, in order, on as many slots as there are.

    Args:
        slots: the visible device of each process that may run at a time.
        progress: is told when a run starts or ends.
        command: gives the command line of a run.
        report: is given all outcomes whenever a run has ended and others have not.
    """

    def __init__(
        self,
        slots: Sequence[str | None],
        progress: LiveProgress,
        command: Callable[[Run], list[str]] = worker_command,
        report: Callable[[list[Outcome]], object] = lambda outcomes: None,
    ) -> None:
        self._free = list(slots)
        self._progress, self._command, self._report = progress, command, report
        self._active: list[_Active] = []
        self._outcomes: dict[Run, Outcome] = {}

    def execute(self, runs: Sequence[Run]) -> list[Outcome]:
        """Do all runs and return their outcomes, in the order of ``runs``."""
        pending = []
        for run in runs:
            if (result := run.result()) is not None:
                self._end(Outcome(run, result=result))
            else:
                pending.append(run)
        if pending and self._outcomes:
            self._report(self.outcomes(runs))  # a damaged result ends this before new runs
        try:
            while pending or self._active:
                while pending and self._free:
                    self._start(pending.pop(0))
                if self._collect() and (pending or self._active):
                    self._report(self.outcomes(runs))
                time.sleep(_POLL_S)
        finally:
            self._stop_all()
        return self.outcomes(runs)

    def outcomes(self, runs: Sequence[Run]) -> list[Outcome]:
        """Outcomes of ``runs``; no result for those that have not ended."""
        return [self._outcomes.get(run, Outcome(run, "not run yet")) for run in runs]

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
        self._progress.started(run)

    def _collect(self) -> bool:
        """Take in the runs that have ended, and say whether there are any."""
        ended = [each for each in self._active if each.process.poll() is not None]
        for each in ended:
            self._active.remove(each)
            each.log.close()
            self._free.append(each.slot)
            code, result = each.process.returncode, each.run.result()
            if code == 0 and result is not None:
                self._end(Outcome(each.run, result=result))
            else:
                self._end(Outcome(each.run, failure(code, each.run.folder / LOG)))
        return bool(ended)

    def _stop_all(self) -> None:
        """End the runs that are active when the command is interrupted."""
        self._collect()
        for each in self._active:
            each.process.terminate()
        until = time.monotonic() + _GRACE_S
        for each in self._active:
            try:
                each.process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                each.process.kill()
                each.process.wait()
            each.log.close()
            message = "stopped: interrupted; the same command resumes it"
            self._end(Outcome(each.run, message))
        self._active.clear()

    def _end(self, outcome: Outcome) -> None:
        self._outcomes[outcome.run] = outcome
        self._progress.ended(outcome)


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
