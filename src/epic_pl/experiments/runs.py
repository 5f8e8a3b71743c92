"""Execution of a list of runs, one after another, each in its own process.

So the memory of a run can be measured, and a crash does not end the others.
"""

import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from epic_pl.utils.files import try_read_json, write_json
from epic_pl.utils.plugins import IMPORTED, import_packages

_WAIT_S = 10  # a run's process needs some time to end after its comparison was killed


@dataclass
class Run:
    """A training and its test.

    Attributes:
        name: line of the comparison.
        seed: seed of the training.
        options: options of ``fit``, with the seed.
        folder: folder of all files.
        result: content of ``result.json``; None until the run is finished.
        failure: reason why it ended without a result.
        shown: whether its output goes to the terminal; else to ``log.txt``.
    """

    name: str
    seed: int
    options: tuple[str, ...]
    folder: Path
    result: dict[str, Any] | None = None
    failure: str = ""
    shown: bool = False

    @property
    def ended(self) -> bool:
        """Whether the run is finished or has failed."""
        return self.result is not None or bool(self.failure)

    def __str__(self) -> str:
        """A line to print when the run has ended."""
        if self.failure:
            return f"{self.name}, seed {self.seed} failed: {self.failure}"
        metrics = (self.result or {}).get("metrics", {})
        known = [name for name in ("accuracy", "map") if name in metrics]
        score = f"test {known[0]} {metrics[known[0]]:.3f}" if known else "done"
        return f"{self.name}, seed {self.seed}: {score}"


Work = Callable[[Sequence[str], Path], dict[str, Any]]
"""Does a run with options of ``fit`` and a folder, and returns its result."""


def execute(runs: Sequence[Run], work: Work, report: Callable[[], object] = lambda: None) -> None:
    """Execute the runs that are not finished, and store result or failure in each.

    Args:
        runs: all runs, in order.
        work: function of a module that a new process can import.
        report: function that is called after each run but the last.

    Raises:
        KeyboardInterrupt: after Ctrl-C and a last report. The run's process is killed; the same
            command continues from its last checkpoint.
    """
    for run in runs:
        run.result = try_read_json(run.folder / "result.json")
    pending = [run for run in runs if not run.ended]
    print(f"{len(runs)} runs, {len(runs) - len(pending)} finished before", file=sys.stderr)
    if 0 < len(pending) < len(runs):
        report()  # raises an error about damaged results before new runs start
    for number, run in enumerate(pending, 1):
        try:
            in_new_process(run, work)
        except KeyboardInterrupt:
            report()
            raise
        print(f"{number} of {len(pending)}: {run}", file=sys.stderr)
        if number < len(pending):
            report()


def in_new_process(run: Run, work: Work) -> None:
    """Execute a run in a process of its own, and store result or failure in it."""
    run.folder.mkdir(parents=True, exist_ok=True)
    context = _context(work)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_main, args=(run, work, sender, [*IMPORTED], dict(os.environ)))
    process.start()
    sender.close()
    failure: str | None = None
    try:
        with suppress(EOFError):  # the process has ended without a message
            failure = receiver.recv()
    except BaseException:
        process.kill()
        raise
    finally:
        process.join()
    if failure is None:
        code = process.exitcode or 0  # negative for a signal
        killed = "was killed, as when memory runs out"
        failure = f"the process {f'ended with code {code}' if code > 0 else killed}"
    run.result = None if failure else try_read_json(run.folder / "result.json")
    place = "" if run.shown else f" (log: {run.folder / 'log.txt'})"
    run.failure = failure and failure + place


def _context(work: Work) -> Any:
    """What starts processes: a server that has imported the module of ``work`` once for all."""
    if "forkserver" not in multiprocessing.get_all_start_methods():  # Windows
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # imports can take longer than the training
    context.set_forkserver_preload([getattr(work, "func", work).__module__])
    return context


def _main(
    run: Run,
    work: Work,
    sender: Connection,
    packages: Sequence[str],
    environment: Mapping[str, str],
) -> None:
    """The process of a run: its output goes to a log, and what has failed to its parent."""
    os.environ.clear()  # that of the server's start
    os.environ.update(environment)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if not run.shown:
        with (run.folder / "log.txt").open("ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
    import_packages(packages)
    sender.send(attempt(run, work))


def _end_with_parent() -> None:
    """End this process when its parent ends, even if the parent was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def attempt(run: Run, work: Work) -> str:
    """Execute a run in this process and write its result; return the failure, or an empty text."""
    try:
        with FileLock(run.folder / ".lock", timeout=_WAIT_S):
            known = {"name": run.name, "seed": run.seed, "options": run.options}
            write_json(run.folder / "result.json", known | work(run.options, run.folder))
    except Timeout:
        return "another process is training in this folder: wait for it"
    except Exception as error:  # whatever fails, the other runs continue
        from epic_pl.run.error_text import message_of

        traceback.print_exc()
        return f"{type(error).__name__}: {message_of(error)}"
    return ""
