"""What comes before the runs of a comparison: stored features, and each method's own options."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from epic_pl.callbacks import FeatureCache
from epic_pl.cli import BuildCLI, run
from epic_pl.config_files import find_packaged
from epic_pl.errors import ConfigError
from epic_pl.experiments.compare.plan import Entry
from epic_pl.experiments.files import read_json, write_json
from epic_pl.experiments.options import ONE_DEVICE, as_options, use_stored_features
from epic_pl.experiments.tune.command import best_options
from epic_pl.experiments.tune.space import read_space
from epic_pl.experiments.tune.study import plan_search

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


def tuned(entry: Entry, shared: Sequence[str], output: Path, trials: int) -> Entry:
    """An entry with the options that are best on validation after a number of trials.

    Its space is the packaged ``METHOD.yaml``, or ``plain.yaml`` for methods without one. Trials
    that were done before are not repeated.

    Raises:
        ConfigError: if no trial was trained to its end, or validation has no metric to judge by.
    """
    path = find_packaged("spaces", f"{entry.method}.yaml")
    space = read_space(path if Path(path).is_file() else find_packaged("spaces", _PLAIN_SPACE))
    search = plan_search((*shared, *entry.fit_options), space, output / "tune" / entry.name)
    chosen = best_options(search, trials)
    if chosen is None:
        raise ConfigError(f"No trial of {entry.name} came to its end: see {search.output}.")
    options = tuple(as_options(chosen))
    return replace(entry, options=(*entry.options, *options), chosen=options)
