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
from epic_pl.run.epic_cli import Built, data_of, parse
from epic_pl.utils.assets.cached import cache_dir
from epic_pl.utils.errors import ConfigError, EpicError

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


def images_key(section: Mapping[str, Any]) -> str:
    """Hash of sizes and times of change of the images that runs read.

    Those in the cache follow from a table or a version of the data. What cannot be read is left to
    the runs, which tell of it.

    Args:
        section: the options ``data`` of ``fit``.
    """
    states: dict[str, Any] = {}
    own = section.get("init_args", {}).items()
    if any(isinstance(v, str) and os.path.exists(v) for n, v in own if "encoder" not in n):
        with suppress(EpicError, OSError):
            data = data_of(section)
            for split in ("train", "val", "test"):
                rows = data.read_split(split)
                if not rows.image_root.resolve().is_relative_to(cache_dir().resolve()):
                    paths = rows.table["image"].unique().drop_null().to_pylist()
                    states |= image_states(paths, rows.image_root)
    return hashlib.sha256(json.dumps(states, sort_keys=True).encode()).hexdigest()


def options_key(parsed: Mapping[str, Any], *others: Any) -> str:
    """Hash of all options, of the files that options of the data name, and of ``others``.

    Of a table or an encoder that is a folder: of names, sizes and times of change of its files.
    """
    hashes: dict[str, Any] = {}
    for name, value in parsed["data"].get("init_args", {}).items():
        if isinstance(value, str) and name != "predict_table":  # those do not change results
            path = Path(value.removeprefix("local-dir:"))
            with suppress(OSError):  # for example, a text that is too long for a path
                if path.is_file():
                    with path.open("rb") as file:
                        hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
                elif name in ("table", "image_encoder", "text_encoder") and path.is_dir():
                    # deeper than SPLIT/CLASS/IMAGE are other files, as of runs started there
                    files = [str(each) for each in visible_files(path) if len(each.parts) <= 3]
                    states = image_states(files, path)
                    hashes[name] = {file: state for file, state in states.items() if state}
    content = json.dumps((parsed, hashes, *others), sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:12]
