"""What is running, for how long, how good it is so far, and how long all will take."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from epic_pl.experiments.compare.files import read_json
from epic_pl.experiments.compare.plan import Run
from epic_pl.experiments.compare.runner import Outcome


class LiveProgress:
    """A bar for all runs and one for each under way; a line for each that ends.

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
            TextColumn("{task.fields[said]}"),
            console=console,
        )
        self._all = self._bar.add_task("all runs", total=total, said="")
        self._active: dict[Run, tuple[TaskID, float]] = {}
        self._start: float | None = None
        self._done = self._trained = 0

    def __enter__(self) -> "LiveProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def started(self, run: Run) -> None:
        """Show a bar for it."""
        self._start = self._start or time.monotonic()
        task = self._bar.add_task(f"{run.name}, seed {run.seed}", total=1.0, said="starting")
        self._active[run] = task, time.monotonic()

    def ended(self, outcome: Outcome) -> None:
        """Say how it went."""
        run, said = outcome.run, outcome.message
        self._done += 1
        if run in self._active:
            task, start = self._active.pop(run)
            self._bar.remove_task(task)
            self._trained += 1
            said = said or f"{_score(outcome)} in {time.monotonic() - start:.0f} s"
        elif outcome.result is not None:
            said = f"{_score(outcome)}, was there"
        self._console.print(
            f"{run.name}, seed {run.seed}: {said}", markup=False, highlight=False, soft_wrap=True
        )
        self.tick()

    def tick(self) -> None:
        """Read how far each run is."""
        under_way = 0.0
        for run, (task, _) in self._active.items():
            told = read_json(run.folder / "progress.json") or {}
            share = told.get("share") or 0.0
            under_way += share
            self._bar.update(task, completed=share, said=_told(told))
        self._bar.update(self._all, completed=self._done + under_way, said=self._left(under_way))

    def _left(self, under_way: float) -> str:
        """From the runs of this call: results that were there say nothing of the pace."""
        trained = self._trained + under_way
        if self._start is None or trained < 0.05:
            return ""
        total = self._bar.tasks[0].total or 0
        left = (time.monotonic() - self._start) / trained * (total - self._done - under_way)
        minutes, seconds = divmod(round(left), 60)
        return f"about {minutes}:{seconds:02} left"


def _told(told: dict[str, object]) -> str:
    if not told:
        return "starting"
    epochs = f"/{told['epochs']}" if told["epochs"] else ""
    value = told["value"]
    best = f", {told['metric']} {value:.3f}" if isinstance(value, float) else ""
    return f"epoch {told['epoch']}{epochs}{best}"


def _score(outcome: Outcome) -> str:
    metrics = (outcome.result or {}).get("metrics", {})
    name = next((n for n in ("accuracy", "f1_micro") if n in metrics), None)
    return "done" if name is None else f"test {name} {metrics[name]:.3f}"
