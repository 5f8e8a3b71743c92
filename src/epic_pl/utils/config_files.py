"""Search of configs by name: packaged ones, and files."""

import os
import warnings
from collections.abc import Mapping, Sequence
from glob import glob
from importlib import resources
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Literal

import yaml

from epic_pl.utils.errors import ConfigError, did_you_mean
from epic_pl.utils.untrusted import MOST_OPTIONS, require_flat, require_regular

INIT_CONFIG = "epic.yaml"
"""File name of the configs that ``epic-pl data init`` writes."""

ConfigFolder = Literal["", "overlays", "variants", "spaces"]
_ROOT = resources.files("epic_pl.cli") / "configs"
# exceptions that PyYAML raises on values that do not fit their tag
_NOT_OF_TAG = (ValueError, LookupError, TypeError, AttributeError)
_UNREADABLE = (OSError, yaml.YAMLError, RecursionError, *_NOT_OF_TAG)


def packaged(folder: ConfigFolder) -> list[str]:
    """Names of the packaged files in a folder of the configs."""
    names = (entry.name for entry in (_ROOT / folder).iterdir())
    return sorted(name for name in names if name.endswith(".yaml"))


def packaged_file(folder: ConfigFolder, name: str) -> str:
    """Path of a packaged file, even if the working directory has a file of that name."""
    return str(_ROOT / folder / name)


def packaged_configs() -> list[str]:
    """Names of all packaged configs, overlays included."""
    return sorted([*packaged(""), *packaged("overlays")])


def find_packaged(folder: ConfigFolder, name: str) -> str:
    """Path of a packaged file if ``name`` is the bare name of one, else ``name`` itself.

    An unknown name is returned as it is; reading it then fails with that name.
    """
    path = packaged_file(folder, name)
    # a name with a folder means exactly that file
    if Path(name).name != name or not os.path.isfile(path):
        return name
    if os.path.isfile(name):
        warnings.warn(f"{name} is {path}; the file here is called ./{name}", stacklevel=2)
    return path


def find_config(name: str) -> str:
    """Path of a config: of a packaged one if ``name`` is its bare name, else of a file.

    Raises:
        ConfigError: if it is neither; the message lists the packaged ones.
    """
    path = find_packaged("overlays" if name in packaged("overlays") else "", name)
    if os.path.isfile(path):
        return path
    own, folder = packaged_configs(), os.path.dirname(name)
    beside = [os.path.join(folder, file) for file in glob("*.yaml", root_dir=folder)]
    raise ConfigError(
        f"There is no config {name!r}, neither as a file here ({Path.cwd()}) nor in the package, "
        f"which has: {', '.join(own)}.{did_you_mean(name, [*own, *beside])}"
    )


def first_config(args: Sequence[str]) -> str:
    """Name of the first config in ``args``, without folder and suffix, for a folder of outputs.

    For an ``epic.yaml`` of ``epic-pl data init`` it is the name of its folder.
    """
    words = [word for arg in args for word in arg.split("=", 1)]
    if "--config" not in words[:-1]:
        return "default"
    path = Path(words[words.index("--config") + 1])
    return path.resolve().parent.name if path.name == INIT_CONFIG else path.stem


def resolve_configs(args: Sequence[str]) -> list[str]:
    """Replace the name in every ``--config NAME`` or ``--config=NAME`` by the config's path.

    Raises:
        ConfigError: if there is no such file, or it is not YAML.
    """
    parts = (arg.split("=", 1) if arg.startswith(("--config=", "-c=")) else [arg] for arg in args)
    return [
        _find_readable(word) if before in ("--config", "-c") else word
        for before, word in pairwise(["", *chain.from_iterable(parts)])
    ]


def _find_readable(name: str) -> str:
    path = find_config(name)
    # the parser's own error about its content would not name the file
    if not isinstance(content := read_yaml(path), Mapping | None):
        raise ConfigError(f"{path} is no config ({str(content)[:20]!r}): see `epic-pl data init`.")
    return path


def read_yaml(path: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Read the content of a YAML file.

    Raises:
        ConfigError: if it cannot be read, is not YAML, or is nested too deeply for options.
    """
    try:
        require_regular(path)
        content = yaml.load(Path(path).read_text(encoding="utf-8"), loader)
        require_flat(content, MOST_OPTIONS)
    except _UNREADABLE as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}.") from error
    return content
