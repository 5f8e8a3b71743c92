"""``epic-pl compare``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from epic_pl.arguments import INTERRUPTED, compare_parser
from epic_pl.config_files import find_packaged, first_config
from epic_pl.errors import ConfigError
from epic_pl.experiments.compare.interruption import terminated_as_interrupted
from epic_pl.experiments.compare.plan import Entry, choose, plan, read_variants
from epic_pl.experiments.compare.progress import LiveProgress
from epic_pl.experiments.compare.report import show, write_report
from epic_pl.experiments.compare.results import Row, comparison_rows
from epic_pl.experiments.compare.runner import Outcome, Runner, devices

_DEFAULT_REFERENCE = "epic"


def compare_command(args: Sequence[str]) -> int:
    """Run ``epic-pl compare ARGS``.

    Returns:
        The exit code: 1 if every run failed, 130 if interrupted, else 0.

    Raises:
        EpicError: with a message for the user, before anything is run.
    """
    options, shared = compare_parser().parse_known_args(list(args))
    for name, value in (("seeds", options.seeds), ("jobs", options.jobs)):
        if value is not None and value < 1:
            raise ConfigError(f"--{name} is {value}: it counts from 1.")
    if options.budget is not None and options.budget <= 0:
        raise ConfigError(f"--budget is {options.budget}: it is minutes, more than 0.")
    variants = []
    if options.variants:
        variants = read_variants(find_packaged("variants", options.variants))
    entries = choose(options.methods, variants)
    reference = _reference(options.reference, entries)
    output = Path(options.output) if options.output else _default_output(shared)
    runs = plan(entries, options.seeds, shared, output, options.splits)
    jobs = options.jobs or max(1, torch.cuda.device_count())
    budget_s = None if options.budget is None else 60 * options.budget
    tables = _Tables(output, reference, jobs, shared)
    watch = LiveProgress(len(runs), Console(file=sys.stderr))
    runner = Runner(devices(jobs), budget_s, watch, report=tables.write_so_far)
    try:
        with terminated_as_interrupted(), watch:
            outcomes = runner.execute(runs)
    except KeyboardInterrupt:
        tables.write_so_far(runner.outcomes(runs))
        print("Interrupted: the same command goes on where this one stopped.", file=sys.stderr)
        return INTERRUPTED
    rows = tables.write(outcomes)
    console = Console()
    show(rows, console)
    console.print(f"Tables and plot: {output}/comparison.md, .csv, .json, .png", soft_wrap=True)
    return int(all(outcome.state == "failed" for outcome in outcomes))


@dataclass(frozen=True)
class _Tables:
    """Writes what runs have come to."""

    output: Path
    reference: str
    jobs: int
    shared: Sequence[str]

    def write(self, outcomes: Sequence[Outcome]) -> list[Row]:
        """All of it."""
        rows = comparison_rows(outcomes, self.reference)
        write_report(rows, self.output, self.reference, self._notes(outcomes))
        return rows

    def write_so_far(self, outcomes: Sequence[Outcome]) -> None:
        """Without what takes long; tables of before stay as long as no run is done."""
        if any(outcome.result is not None for outcome in outcomes):
            rows = comparison_rows(outcomes, self.reference, tested=False)
            notes = f"Not complete, and no difference is tested yet. {self._notes(outcomes)}"
            write_report(rows, self.output, self.reference, notes)

    def _notes(self, outcomes: Sequence[Outcome]) -> str:
        results = [outcome.result for outcome in outcomes if outcome.result is not None]
        places = sorted({f"{result['device']}, torch {result['torch']}" for result in results})
        run_on = f"Run on {'; '.join(places) or 'nothing'}"
        at_a_time = "one run at a time" if self.jobs == 1 else f"up to {self.jobs} runs at a time"
        return f"Options: `{' '.join(self.shared)}`. {run_on}; {at_a_time}."


def _reference(name: str | None, entries: Sequence[Entry]) -> str:
    names = [entry.name for entry in entries]
    if name is None:
        return _DEFAULT_REFERENCE if _DEFAULT_REFERENCE in names else names[0]
    if name not in names:
        raise ConfigError(
            f"--reference {name!r} is not among what is compared: {', '.join(names)}."
        )
    return name


def _default_output(shared: Sequence[str]) -> Path:
    """``runs/compare/<config>``: two tasks do not share a folder."""
    return Path("runs/compare") / first_config(shared)
