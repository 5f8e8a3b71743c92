"""What comes before the runs of a comparison: stored features, and each method's own options."""

import gc
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
    feature_cache,
    parsed_options,
    run_key,
    use_stored_features,
)

# all other methods have rates of their own for what is in the encoders
_TRAIN_A_HEAD_ALONE = ("late_fusion_mlp", "linear_probe", "no_prompts")


def encode_once(entry: Entry, shared: Sequence[str], output: Path) -> str:
    """Store the features of an entry, once, before runs that read them start side by side.

    Returns:
        A sentence with the seconds that it took; none where nothing is stored.
    """
    options = entry.fit_options(shared)
    parsed = parsed_options(options)
    if parsed["cache"]["level"] == "off":
        return ""
    path = output / f"encoding-{run_key(parsed)}.json"
    seconds = (read_json(path) or {}).get("seconds")
    if not isinstance(seconds, float):
        seconds = _encode(options)
        if seconds is None:
            return ""
        output.mkdir(parents=True, exist_ok=True)
        write_json(path, {"seconds": seconds})
    return f" Storing the features of `{entry.name}` took {seconds:.0f} s."


def _encode(options: Sequence[str]) -> float | None:
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
    execute: Callable[[Sequence[Run]], list[Outcome]],
) -> list[Entry]:
    """The entries, each with the options that are best on validation after a number of trials.

    Searches that are finished are not repeated, others continue.

    Raises:
        ConfigError: if a search has no result.
    """
    runs = []
    for entry in entries:
        space, options = _space(entry), entry.fit_options(shared)
        key = run_key(parsed_options(options), Path(space).read_text(), trials)
        folder = output.resolve() / "tune" / f"{entry.name}-{key}"
        runs.append(Run(f"tuning of {entry.name}", 0, options, folder, (space, trials)))
    tuned = []
    for entry, outcome in zip(entries, execute(runs), strict=True):
        if outcome.result is None:
            raise ConfigError(f"Options of {entry.name} could not be chosen: {outcome.message}")
        best = outcome.result.get("chosen")
        if not isinstance(best, dict) or not {*best} <= {*read_yaml(_space(entry))}:
            raise ConfigError(f"{outcome.run.folder}/result.json is of no search: remove it.")
        chosen = tuple(as_options(best))
        tuned.append(replace(entry, options=(*entry.options, *chosen), chosen=chosen))
    return tuned


def _space(entry: Entry) -> str:
    """Path of the space in which the entry's options are searched."""
    name = "head.yaml" if entry.method in _TRAIN_A_HEAD_ALONE else "prompts.yaml"
    return packaged_file("spaces", name)
