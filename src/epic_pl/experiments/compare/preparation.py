"""What comes before the runs of a comparison: stored features, and each method's own options."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from epic_pl.callbacks import FeatureCache
from epic_pl.cli import BuildCLI, run
from epic_pl.config_files import find_packaged
from epic_pl.errors import ConfigError
from epic_pl.experiments.compare.plan import Entry, Outcome, Run
from epic_pl.experiments.files import read_json, write_json
from epic_pl.experiments.options import (
    ONE_DEVICE,
    as_options,
    data_files,
    digest,
    parsed_options,
    use_stored_features,
)

Command = Callable[[Run], list[str]]

_PLAIN_SPACE = "plain.yaml"


def encode_once(entry: Entry, shared: Sequence[str], output: Path) -> str:
    """Store the features of the entry that needs most, which then serve the others too.

    Returns:
        A sentence with its seconds; none where nothing is stored.
    """
    path = output / "encoding.json"
    found = read_json(path)
    if found is None:
        cli = run(["fit", *shared, *entry.fit_options, *ONE_DEVICE], BuildCLI)
        start = time.monotonic()
        if use_stored_features(cli) == "off":
            return ""
        trainer: Any = cli.trainer
        cache = next(each for each in trainer.callbacks if isinstance(each, FeatureCache))
        cache.build_stores(trainer, cli.model, cli.datamodule)
        found = {"seconds": time.monotonic() - start}
        output.mkdir(parents=True, exist_ok=True)
        write_json(path, found)
    return f" Encoding what was not stored before took {found['seconds']:.0f} s, once for all."


def tuned(
    entries: Sequence[Entry],
    shared: Sequence[str],
    output: Path,
    trials: int,
    execute: Callable[[Sequence[Run], Command], list[Outcome]],
) -> list[Entry]:
    """The entries, each with the options that are best on validation after a number of trials.

    An entry's space is the packaged ``METHOD.yaml``, or ``plain.yaml`` for methods without one.
    Searches that are finished are not repeated, others continue.

    Args:
        entries: lines of the comparison.
        shared: options of ``fit`` for all.
        output: folder of the comparison.
        trials: of each entry.
        execute: does runs, of which each has the given command line.

    Raises:
        ConfigError: if a search has no result.
    """
    spaces, runs = {}, []
    for entry in entries:
        path = find_packaged("spaces", f"{entry.method}.yaml")
        space = path if Path(path).is_file() else find_packaged("spaces", _PLAIN_SPACE)
        options = (*shared, *entry.fit_options, *ONE_DEVICE)
        parsed = parsed_options(options)
        key = digest(parsed, data_files(parsed), Path(space).read_text(), trials)[:12]
        folder = output.resolve() / "tune" / f"{entry.name}-{key}"
        run = Run(f"tuning of {entry.name}", 0, options, folder)
        spaces[run] = space
        runs.append(run)

    def command(run: Run) -> list[str]:
        module = "epic_pl.experiments.compare.tuning"
        arguments = [str(run.folder), spaces[run], str(trials), str(os.getpid())]
        return [sys.executable, "-m", module, *arguments]

    found = []
    for entry, outcome in zip(entries, execute(runs, command), strict=True):
        if outcome.result is None:
            raise ConfigError(f"Options of {entry.name} could not be chosen: {outcome.message}")
        chosen = tuple(as_options(outcome.result["chosen"]))
        found.append(replace(entry, options=(*entry.options, *chosen), chosen=chosen))
    return found
