"""Functions that parse, build and hash options of ``fit``, for comparison and search."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from epic_pl.data.row_cache import image_states
from epic_pl.data.tables.folders import visible_files
from epic_pl.module.callbacks import FeatureCache
from epic_pl.run.epic_cli import Built, parse
from epic_pl.utils.errors import ConfigError

ONE_DEVICE = ("--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.strategy=auto")
"""Runs that are compared have one batch size, which a second device would change."""


def parse_fit(options: Sequence[str]) -> dict[str, Any]:
    """Parse options of ``fit`` to all its options, with defaults and configs.

    Raises:
        ArgumentError: if ``fit`` does not know an option.
    """
    return dict(parse(["fit", *options]).config.as_dict())


def refuse_own(command: str, own: Sequence[str], options: Sequence[str]) -> None:
    """Raise ConfigError if one of ``options`` is one that the command sets itself (``own``)."""
    for option in options:
        name = option.removeprefix("--").split("=")[0]
        if option.startswith("--") and name in own:
            raise ConfigError(f"epic-pl {command} sets {name} itself in every run: leave it out.")


def feature_cache(trainer: Any) -> FeatureCache:
    """The trainer's feature cache, which the command line always adds."""
    return next(part for part in trainer.callbacks if isinstance(part, FeatureCache))


def use_stored_features(built: Built) -> str:
    """Let a method read all that can be stored for it, where the cache is on; returns the level."""
    cache = feature_cache(built.trainer)
    if cache.level != "off":
        cache.level = "auto"
    return cache.level_for(built.module, built.data)


def options_key(parsed: Mapping[str, Any], *others: Any) -> str:
    """Hash of all options, of the files that options of the data name, and of ``others``.

    Of a table that is a folder: of names, sizes and times of change of the files in it.
    """
    hashes: dict[str, Any] = {}
    for name, value in parsed["data"].get("init_args", {}).items():
        with suppress(OSError):  # for example, a text that is too long for a path
            # rows to predict do not change results
            if isinstance(value, str) and name != "predict_table" and Path(value).is_file():
                with open(value, "rb") as file:
                    hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
            elif name == "table" and os.path.isdir(value):
                # deeper than SPLIT/CLASS/IMAGE are other files, as of runs that were started there
                files = [str(file) for file in visible_files(Path(value)) if len(file.parts) <= 3]
                states = image_states(files, Path(value))
                hashes[name] = {file: state for file, state in states.items() if state}
    content = json.dumps((parsed, hashes, *others), sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:12]
