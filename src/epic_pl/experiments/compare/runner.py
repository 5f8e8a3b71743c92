"""Runs in processes of their own: how many at a time, on which device, and until when."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol

from epic_pl.experiments.compare.plan import Run

State = Literal["done", "failed", "stopped", "not run"]
LOG = "log.txt"
_POLL_S = 0.2
# how long a run that is told to stop may take to leave
_GRACE_S = 20
_ERROR_LINE = re.compile(r"^(epic-pl: |[\w.]+(Error|Exception|Interrupt)\b)")


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its result where it is done, else what to say instead."""

    run: Run
    state: State
    message: str = ""
    result: dict[str, Any] | None = None


class Watch(Protocol):
    """Who is told what goes on."""

    def started(self, run: Run) -> None:
        """A process was started."""

    def ended(self, outcome: Outcome) -> None:
        """A run is over, or was never started."""

    def tick(self) -> None:
        """Time has passed."""


def worker_command(run: Run) -> list[str]:
    """What is started for a run; it ends when this process does."""
    module = "epic_pl.experiments.compare.worker"
    return [sys.executable, "-m", module, str(run.folder), str(os.getpid())]


def devices(jobs: int) -> list[str | None]:
    """``CUDA_VISIBLE_DEVICES`` of each of ``jobs`` slots; None leaves it as it is."""
    import torch

    count = torch.cuda.device_count()
    if count == 0:
        return [None] * jobs
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = named.split(",") if named else [str(number) for number in range(count)]
    return [visible[slot % count] for slot in range(jobs)]


class Runner:
    """Runs what is not done, in order, on as many slots as there are.

    When the budget is spent, runs under way are stopped, and none is started any more. A run that
    was stopped has no row with half a training in it: the same command goes on with it.

    Args:
        slots: the visible device of each process that may run at a time.
        budget_s: seconds for everything; None has no end.
        watch: is told what goes on.
        command: what is started for a run.
        report: is given what there is so far whenever a run has ended and others have not.
    """

    def __init__(
        self,
        slots: Sequence[str | None],
        budget_s: float | None,
        watch: Watch,
        command: Callable[[Run], list[str]] = worker_command,
        report: Callable[[list[Outcome]], None] | None = None,
    ) -> None:
        self._free = list(slots)
        self._deadline = None if budget_s is None else time.monotonic() + budget_s
        self._watch = watch
        self._command = command
        self._report = report
        self._active: list[tuple[Run, subprocess.Popen[bytes], str | None, IO[bytes]]] = []
        self._outcomes: dict[Run, Outcome] = {}

    def execute(self, runs: Sequence[Run]) -> list[Outcome]:
        """Run all, and say how each ended, in the order of ``runs``."""
        pending = []
        for run in runs:
            if (result := run.result()) is not None:
                self._end(Outcome(run, "done", result=result))
            else:
                pending.append(run)
        try:
            while (pending or self._active) and not self._spent():
                while pending and self._free:
                    self._start(pending.pop(0))
                if self._collect() and self._report and (pending or self._active):
                    self._report(self.outcomes(runs))
                self._watch.tick()
                time.sleep(_POLL_S)
        finally:
            self._stop_all()
        for run in pending:
            self._end(Outcome(run, "not run", "not run: budget spent"))
        return self.outcomes(runs)

    def outcomes(self, runs: Sequence[Run]) -> list[Outcome]:
        """How each of ``runs`` ended; those that have not are there as not run yet."""
        return [self._outcomes.get(run, Outcome(run, "not run", "not run yet")) for run in runs]

    def _spent(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _start(self, run: Run) -> None:
        run.prepare()
        slot = self._free.pop(0)
        environment = dict(os.environ)
        if slot is not None:
            environment["CUDA_VISIBLE_DEVICES"] = slot
        log = (run.folder / LOG).open("ab")
        process = subprocess.Popen(
            self._command(run),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        self._active.append((run, process, slot, log))
        self._watch.started(run)

    def _collect(self) -> bool:
        """Take in what has ended, and say whether any has."""
        before = len(self._active)
        for entry in list(self._active):
            run, process, slot, log = entry
            if process.poll() is None:
                continue
            self._active.remove(entry)
            log.close()
            self._free.append(slot)
            result = run.result()
            if process.returncode == 0 and result is not None:
                self._end(Outcome(run, "done", result=result))
            else:
                self._end(Outcome(run, "failed", failure(process.returncode, run.folder / LOG)))
        return len(self._active) < before

    def _stop_all(self) -> None:
        """What still runs when the budget is spent, or we are interrupted, ends."""
        self._collect()
        for _, process, _, _ in self._active:
            process.terminate()
        until = time.monotonic() + _GRACE_S
        for run, process, _, log in self._active:
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            log.close()
            why = "budget spent" if self._spent() else "interrupted"
            self._end(Outcome(run, "stopped", f"stopped: {why}; the same command goes on"))
        self._active.clear()

    def _end(self, outcome: Outcome) -> None:
        self._outcomes[outcome.run] = outcome
        self._watch.ended(outcome)


def failure(code: int, log: Path) -> str:
    """Why a process failed: the last line of its log that names an error, and where it lies."""
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if code < 0:
        name = signal.Signals(-code).name
        said = f"ended by {name}" + (", as when memory runs out" if name == "SIGKILL" else "")
    else:
        named = [line for line in lines if _ERROR_LINE.match(line)]
        said = (named or lines or [f"exit code {code}, nothing said"])[-1]
    return f"failed: {said.removeprefix('epic-pl: ')} (log: {log})"
