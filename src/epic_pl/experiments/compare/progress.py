"""Progress of a comparison: runs done and active, and the time that is left."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from epic_pl.experiments.compare.plan import Outcome, Run


class LiveProgress(Progress):
    """A bar for all runs that names the active ones, and a line for each run that ends."""

    def __init__(self, total: int, console: Console) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=1e9,
        )
        self._task = self.add_task("", total=total)
        self._total = total
        self._active: list[Run] = []

    def started(self, run: Run) -> None:
        """Show a run among the active ones."""
        self._active.append(run)
        self._show()

    def ended(self, outcome: Outcome) -> None:
        """Print the outcome of a run."""
        run, text = outcome.run, outcome.message or _score(outcome)
        if trained := run in self._active:
            self._active.remove(run)
        else:  # not of this command's pace
            self._total -= 1
            text += ", finished before"
        self._show(int(trained))
        line = f"{run.name}, seed {run.seed}: {text}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _show(self, done: int = 0) -> None:
        names = "; ".join(f"{run.name}, seed {run.seed}" for run in self._active)
        self.update(self._task, description=names, total=self._total, advance=done)


def _score(outcome: Outcome) -> str:
    metrics = (outcome.result or {}).get("metrics", {})
    name = next((n for n in ("accuracy", "f1_micro") if n in metrics), None)
    return "done" if name is None else f"test {name} {metrics[name]:.3f}"
