"""A comparison from stored features over tuning to the outcomes of all runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from epic_pl.experiments.compare.plan import Entry, Outcome, Run, plan
from epic_pl.experiments.compare.preparation import encode_once, tune_entries
from epic_pl.experiments.compare.progress import LiveProgress
from epic_pl.experiments.compare.report import write_report
from epic_pl.experiments.compare.results import Row
from epic_pl.experiments.compare.runner import Runner, devices, worker_command


@dataclass
class Comparison:
    """Runs a comparison: stored features, tuning, training, tests, report.

    Attributes:
        entries: lines of the comparison.
        shared: options of ``fit`` for all.
        output: folder of all files.
        seeds: runs of each entry.
        splits: split the data anew for each seed, for all methods alike.
        trials: of each entry's search for options; 0 searches none.
        jobs: runs at a time.
        command: gives the command line of a run.
        notes: text below the tables.

    Raises:
        ConfigError: if an option is set by the comparison itself.
        ArgumentError: if ``fit`` does not know an option.
    """

    entries: Sequence[Entry]
    shared: Sequence[str]
    output: Path
    seeds: int = 3
    splits: bool = False
    trials: int = 0
    jobs: int = 1
    command: Callable[[Run], list[str]] = worker_command
    notes: str = field(init=False)

    def __post_init__(self) -> None:
        self._plan()
        self.notes = f"Options: `{' '.join(self.shared)}`, at most {self.jobs} runs at a time."

    @property
    def reference(self) -> str:
        """Name of the entry that the others are tested against."""
        return self.entries[0].name

    def execute(self) -> list[Outcome]:
        """Store features, choose options, and do all runs that are not finished.

        Raises:
            KeyboardInterrupt: as it is, with a report of what is finished.
        """
        self.prepare()
        return self._execute(self._plan(), report=True)

    def prepare(self) -> None:
        """Store features and choose options."""
        self.notes += encode_once(self.entries[0], self.shared, self.output)
        if self.trials:
            self.entries = tune_entries(
                self.entries, self.shared, self.output, self.trials, self._execute
            )
            chosen = (f"`{each.name}` `{' '.join(each.chosen)}`" for each in self.entries)
            self.notes += f" Chosen by {self.trials} trials on validation: {'; '.join(chosen)}."

    def report(self, outcomes: Sequence[Outcome], complete: bool = True) -> list[Row]:
        """Write tables and plot; see :func:`~epic_pl.experiments.compare.report.write_report`."""
        return write_report(outcomes, self.output, self.reference, self.notes, complete)

    def _plan(self) -> list[Run]:
        return plan(self.entries, self.seeds, self.shared, self.output, self.splits)

    def _execute(self, runs: Sequence[Run], report: bool = False) -> list[Outcome]:
        def so_far(outcomes: Sequence[Outcome]) -> None:
            if report:
                self.report(outcomes, complete=False)

        progress = LiveProgress(len(runs), Console(stderr=True))
        runner = Runner(devices(self.jobs), progress, self.command, so_far)
        try:
            with progress:
                return runner.execute(runs)
        except KeyboardInterrupt:
            so_far(runner.outcomes(runs))
            raise
