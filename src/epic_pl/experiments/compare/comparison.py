"""A comparison: stores features, chooses each method's options, and does all runs."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from epic_pl.cli.epic_cli import as_options, parse
from epic_pl.experiments.compare.plan import Entry, Outcome, Run, plan
from epic_pl.experiments.compare.report import write_comparison
from epic_pl.experiments.compare.results import Row
from epic_pl.experiments.compare.runner import Runner, worker_command
from epic_pl.experiments.options import (
    feature_cache,
    free_memory,
    parsed_options,
    run_key,
    use_stored_features,
)
from epic_pl.nn.methods import Method
from epic_pl.utils.config_files import find_packaged, read_yaml
from epic_pl.utils.errors import ConfigError
from epic_pl.utils.files import try_read_json, write_json
from epic_pl.utils.plugins import find_class


@dataclass
class Comparison:
    """Runs a comparison: stored features, tuning, training, tests, report.

    Attributes:
        entries: lines of the comparison; the others are tested against the first one.
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

    def execute(self) -> list[Outcome]:
        """Store features, choose options, and do all runs that are not finished.

        Raises:
            KeyboardInterrupt: as it is, with a report of what is finished.
        """
        self.prepare()
        return Runner(self._plan(), self.jobs, self.command, self.report).execute()

    def prepare(self) -> None:
        """Store features and choose options."""
        self.notes += encode_once(self.entries[0], self.shared, self.output)
        if self.trials:
            self.entries = self._tuned_entries()
            chosen = (f"`{entry.name}` `{' '.join(entry.chosen)}`" for entry in self.entries)
            self.notes += f" Chosen by {self.trials} trials on validation: {'; '.join(chosen)}."

    def report(self, outcomes: Sequence[Outcome]) -> list[Row]:
        """Write tables and plot, and return the rows of the tables."""
        return write_comparison(outcomes, self.output, self.entries[0].name, self.notes)

    def _plan(self) -> list[Run]:
        return plan(self.entries, self.seeds, self.shared, self.output, self.splits)

    def _tuned_entries(self) -> list[Entry]:
        """The entries with the options that are best on validation after all trials.

        Searches that are finished are not repeated, others continue.

        Raises:
            ConfigError: if a search has no result.
        """
        searches = []
        for entry in self.entries:
            space, options = _space(entry), entry.fit_options(self.shared)
            key = run_key(parsed_options(options), Path(space).read_text(), self.trials)
            folder = self.output.resolve() / "tune" / f"{entry.name}-{key}"
            search = space, self.trials
            searches.append(Run(f"tuning of {entry.name}", 0, options, folder, search))
        outcomes = Runner(searches, self.jobs, self.command).execute()
        tuned = []
        for entry, outcome in zip(self.entries, outcomes, strict=True):
            if outcome.result is None:
                raise ConfigError(f"Options of {entry.name} could not be chosen: {outcome.message}")
            best = outcome.result.get("chosen")
            if not isinstance(best, dict) or not {*best} <= {*read_yaml(_space(entry))}:
                raise ConfigError(f"{outcome.run.folder}/result.json is of no search: remove it.")
            chosen = tuple(as_options(best))
            tuned.append(replace(entry, options=(*entry.options, *chosen), chosen=chosen))
        return tuned


def encode_once(entry: Entry, shared: Sequence[str], output: Path) -> str:
    """Store the features of an entry, once, before runs that read them start side by side.

    Returns:
        A sentence with the seconds that it took; empty where nothing is stored.
    """
    options = entry.fit_options(shared)
    parsed = parsed_options(options)
    if parsed["cache"]["level"] == "off":
        return ""
    path = output / f"encoding-{run_key(parsed)}.json"
    seconds = (try_read_json(path) or {}).get("seconds")
    if not isinstance(seconds, float):
        seconds = _encode(options)
        free_memory()  # the runs need it
        if seconds is None:
            return ""
        output.mkdir(parents=True, exist_ok=True)
        write_json(path, {"seconds": seconds})
    return f" Storing the features of `{entry.name}` took {seconds:.0f} s."


def _encode(options: Sequence[str]) -> float | None:
    """Seconds that storing took; None for a method that cannot read stored features."""
    cli: Any = parse(["fit", *options])
    cli.build()
    if use_stored_features(cli) == "off":
        return None
    start = time.monotonic()
    feature_cache(cli.trainer).build_stores(cli.trainer, cli.model, cli.datamodule)
    return time.monotonic() - start


def _space(entry: Entry) -> str:
    """Path of the space in which the entry's options are searched."""
    return find_packaged("spaces", find_class(Method, entry.method).space)
