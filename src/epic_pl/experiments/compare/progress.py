"""Progress of a comparison: active runs, their metric so far, and the time that is left."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from epic_pl.experiments.compare.plan import Outcome, Run
from epic_pl.experiments.files import read_json


class LiveProgress:
    """A bar for all runs and one for each active run; a line for each run that ends.

    Args:
        total: number of runs.
        console: to draw on.
    """

    def __init__(self, total: int, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
        )
        self._all = self._bar.add_task("all runs", total=total, state="")
        self._active: dict[Run, tuple[TaskID, float]] = {}
        self._start: float | None = None
        self._total, self._done, self._trained = total, 0, 0

    def __enter__(self) -> "LiveProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def started(self, run: Run) -> None:
        """Show a bar for a run."""
        self._start = self._start or time.monotonic()
        task = self._bar.add_task(f"{run.name}, seed {run.seed}", total=1.0, state="starting")
        self._active[run] = task, time.monotonic()

    def ended(self, outcome: Outcome) -> None:
        """Print the outcome of a run."""
        run, text = outcome.run, outcome.message
        self._done += 1
        if run in self._active:
            task, start = self._active.pop(run)
            self._bar.remove_task(task)
            self._trained += 1
            text = text or f"{_score(outcome)} in {time.monotonic() - start:.0f} s"
        elif outcome.result is not None:
            text = f"{_score(outcome)}, finished before"
        line = f"{run.name}, seed {run.seed}: {text}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        self.tick()

    def tick(self) -> None:
        """Update the bars from the files of the active runs."""
        active = 0.0
        for run, (task, _) in self._active.items():
            state = read_json(run.folder / "progress.json") or {}
            share = state.get("share") or 0.0
            active += share
            self._bar.update(task, completed=share, state=state.get("text", "starting"))
        self._bar.update(self._all, completed=self._done + active, state=self._left(active))

    def _left(self, active: float) -> str:
        """Time left, at the pace of the runs of this command."""
        trained = self._trained + active
        if self._start is None or trained < 0.05:
            return ""
        pace = (time.monotonic() - self._start) / trained
        minutes, seconds = divmod(round(pace * (self._total - self._done - active)), 60)
        return f"about {minutes}:{seconds:02} left"


def _score(outcome: Outcome) -> str:
    metrics = (outcome.result or {}).get("metrics", {})
    name = next((n for n in ("accuracy", "f1_micro") if n in metrics), None)
    return "done" if name is None else f"test {name} {metrics[name]:.3f}"
