"""A list of runs, each done once, one after another, in a process of its own.

A process of its own measures the memory of this run alone, and may end in any way without ending
the others.
"""

import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from epic_pl.utils.files import try_read_json, write_json
from epic_pl.utils.plugins import IMPORTED, import_packages

_WAIT_S = 10  # the process of a comparison that was killed needs some time to end


@dataclass
class Run:
    """A training and its test.

    Attributes:
        name: line of the comparison.
        seed: of the training.
        options: of ``fit``, the seed's included.
        folder: for all files.
        result: content of ``result.json``, once the run is finished.
        failure: why it ended without a result.
    """

    name: str
    seed: int
    options: tuple[str, ...]
    folder: Path
    result: dict[str, Any] | None = None
    failure: str = ""

    @property
    def ended(self) -> bool:
        """Whether the run is finished or has failed."""
        return self.result is not None or bool(self.failure)

    def __str__(self) -> str:
        """A line printed when the run has ended."""
        if self.failure:
            return f"{self.name}, seed {self.seed} failed: {self.failure}"
        metrics = (self.result or {}).get("metrics", {})
        known = [name for name in ("accuracy", "f1_micro") if name in metrics]
        score = f"test {known[0]} {metrics[known[0]]:.3f}" if known else "done"
        return f"{self.name}, seed {self.seed}: {score}"


Work = Callable[[Sequence[str], Path], dict[str, Any]]
"""Does a run with options of ``fit`` and a folder, and returns its result."""


def execute(runs: Sequence[Run], work: Work, report: Callable[[], object] = lambda: None) -> None:
    """Do the runs that are not finished, and note in each what has come out.

    Args:
        runs: all runs, in order.
        work: a function of a module, which a new process can import.
        report: called whenever some runs have ended and others have not.

    Raises:
        KeyboardInterrupt: as it is, after a last report. The run's process is killed: it continues
            from its last checkpoint.
    """
    for run in runs:
        run.result = try_read_json(run.folder / "result.json")
    pending = [run for run in runs if not run.ended]
    print(f"{len(runs)} runs, {len(runs) - len(pending)} finished before", file=sys.stderr)
    if 0 < len(pending) < len(runs):
        report()  # a damaged result ends this before new runs
    for number, run in enumerate(pending, 1):
        try:
            _in_new_process(run, work)
        except KeyboardInterrupt:
            report()
            raise
        print(f"{number} of {len(pending)}: {run}", file=sys.stderr)
        if number < len(pending):
            report()


def _in_new_process(run: Run, work: Work) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_main, args=(run, work, sender, [*IMPORTED]))
    process.start()
    sender.close()
    failure = "the process was killed, as when memory runs out"
    try:
        with suppress(EOFError):  # it has ended without a word
            failure = receiver.recv()
    except BaseException:
        process.kill()
        raise
    finally:
        process.join()
    run.result = None if failure else try_read_json(run.folder / "result.json")
    run.failure = failure and f"{failure} (log: {run.folder / 'log.txt'})"


def _main(run: Run, work: Work, sender: Connection, packages: Sequence[str]) -> None:
    """The process of a run: its output goes to a log, and what has failed to its parent."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with (run.folder / "log.txt").open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    import_packages(packages)
    sender.send(attempt(run, work))


def _end_with_parent() -> None:
    """End this process when its parent has ended, even if that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def attempt(run: Run, work: Work) -> str:
    """Do a run in this process and write its result; returns why it failed, or an empty text."""
    try:
        with FileLock(run.folder / ".lock", timeout=_WAIT_S):
            known = {"name": run.name, "seed": run.seed, "options": run.options}
            write_json(run.folder / "result.json", known | work(run.options, run.folder))
    except Timeout:
        return "another process is training in this folder: wait for it"
    except Exception as error:  # a run may fail in any way; the others continue
        from epic_pl.cli.error_text import message_of

        traceback.print_exc()
        return f"{type(error).__name__}: {message_of(error)}"
    return ""
