"""What comes before the runs of a comparison: stored features, and each method's own options."""

import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from epic_pl.cli import as_options, run
from epic_pl.config_files import packaged_file, read_yaml
from epic_pl.errors import ConfigError
from epic_pl.experiments.compare.plan import Entry, Outcome, Run
from epic_pl.experiments.files import read_json, write_json
from epic_pl.experiments.options import (
    ONE_DEVICE,
    data_files,
    digest,
    feature_cache,
    parsed_options,
    use_stored_features,
)

Command = Callable[[Run], list[str]]

# methods that train a head alone; all others have rates of their own for what is in the encoders
_SPACES = {
    "late_fusion_mlp": "head.yaml",
    "linear_probe": "head.yaml",
    "no_prompts": "head.yaml",
}
_OTHER_SPACE = "prompts.yaml"


def encode_once(entry: Entry, shared: Sequence[str], output: Path) -> str:
    """Store the features of an entry, once, before runs that read them start side by side.

    Returns:
        A sentence with the seconds that it took; none where nothing is stored.
    """
    options = [*shared, *entry.fit_options, *ONE_DEVICE]
    parsed = parsed_options(options)
    if parsed["cache"]["level"] == "off":
        return ""
    path = output / f"encoding-{digest(parsed, data_files(parsed))[:12]}.json"
    seconds = (read_json(path) or {}).get("seconds")
    if not isinstance(seconds, float):
        seconds = _encode(options)
        if seconds is None:
            return ""
        output.mkdir(parents=True, exist_ok=True)
        write_json(path, {"seconds": seconds})
    return f" Storing the features of `{entry.name}` took {seconds:.0f} s."


def _encode(options: list[str]) -> float | None:
    """Seconds that storing took; None for a method that cannot read stored features."""
    cli: Any = run(["fit", *options], "build")
    if use_stored_features(cli) == "off":
        return None
    start = time.monotonic()
    feature_cache(cli.trainer).build_stores(cli.trainer, cli.model, cli.datamodule)
    seconds = time.monotonic() - start
    del cli  # the runs need its memory
    gc.collect()
    torch.cuda.empty_cache()
    return seconds


def tune_entries(
    entries: Sequence[Entry],
    shared: Sequence[str],
    output: Path,
    trials: int,
    execute: Callable[[Sequence[Run], Command], list[Outcome]],
) -> list[Entry]:
    """The entries, each with the options that are best on validation after a number of trials.

    Searches that are finished are not repeated, others continue. ``execute`` does runs, of which
    each has the given command line.

    Raises:
        ConfigError: if a search has no result.
    """
    spaces, runs = {}, []
    for entry in entries:
        space = packaged_file("spaces", _SPACES.get(entry.method, _OTHER_SPACE))
        options = (*shared, *entry.fit_options, *ONE_DEVICE)
        parsed = parsed_options(options)
        key = digest(parsed, data_files(parsed), Path(space).read_text(), trials)[:12]
        folder = output.resolve() / "tune" / f"{entry.name}-{key}"
        run = Run(f"tuning of {entry.name}", 0, options, folder)
        spaces[run] = space
        runs.append(run)

    def command(run: Run) -> list[str]:
        module = "epic_pl.experiments.compare.search_worker"
        arguments = [str(run.folder), spaces[run], str(trials), str(os.getpid())]
        return [sys.executable, "-m", module, *arguments]

    found = []
    for entry, outcome in zip(entries, execute(runs, command), strict=True):
        if outcome.result is None:
            raise ConfigError(f"Options of {entry.name} could not be chosen: {outcome.message}")
        best = outcome.result.get("chosen")
        if not isinstance(best, dict) or not {*best} <= {*read_yaml(spaces[outcome.run])}:
            raise ConfigError(f"{outcome.run.folder}/result.json is of no search: remove it.")
        chosen = tuple(as_options(best))
        found.append(replace(entry, options=(*entry.options, *chosen), chosen=chosen))
    return found
