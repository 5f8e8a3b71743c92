"""Configs by name: a file, or one of those that ship with the package."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal

import yaml

from epic_pl.errors import ConfigError

INIT_CONFIG = "epic.yaml"
"""What ``epic-pl data init`` calls each config that it writes."""


def packaged_configs() -> list[str]:
    """Names of the configs that ship with the package, overlays and ablations included."""
    return sorted([*recipes(), *overlays(), *ablations()])


def recipes() -> list[str]:
    """Names of the packaged configs that stand alone."""
    return _yaml_names("epic_pl.configs")


def overlays() -> list[str]:
    """Names of the packaged configs that follow another one."""
    return _yaml_names("epic_pl.configs.overlays")


def ablations() -> list[str]:
    """Names of the packaged overlays that set one option of EPIC each."""
    return _yaml_names("epic_pl.configs.ablations")


def _yaml_names(package: str) -> list[str]:
    names = (entry.name for entry in resources.files(package).iterdir())
    return sorted(name for name in names if name.endswith(".yaml"))


def find_config(name: str) -> str:
    """Where a config lies: as a path, else among the packaged ones, by its bare name.

    Raises:
        ConfigError: if it is neither; the message lists the packaged ones.
    """
    if Path(name).is_file():
        return name
    root = resources.files("epic_pl.configs")
    for folder in (root, root / "overlays", root / "ablations"):
        # a folder in the name means that very file, which is not there
        if Path(name).name == name and (folder / name).is_file():
            return str(folder / name)
    raise ConfigError(
        f"There is no config {name!r}, neither as a file here ({Path.cwd()}) nor in the package, "
        f"which has: {', '.join(packaged_configs())}."
    )


def find_packaged(kind: Literal["variants", "spaces"], name: str) -> str:
    """Where a file lies that is no config: as a path, else among the packaged ones of its kind.

    A name that is neither is given back as it is: whoever reads it says what is wrong.
    """
    packaged = resources.files("epic_pl.configs") / kind / name
    use = not Path(name).is_file() and Path(name).name == name and packaged.is_file()
    return str(packaged) if use else name


def first_config(args: Sequence[str]) -> str:
    """The name of the first config of ``args`` without its folder, to name a folder after.

    Of an ``epic.yaml``, as ``epic-pl data init`` calls each, that of the folder that it lies in.
    """
    named = [
        args[at + 1] if option == "--config" else option.split("=", 1)[1]
        for at, option in enumerate(args)
        if option.startswith("--config=") or (option == "--config" and at + 1 < len(args))
    ]
    if not named:
        return "default"
    path = Path(named[0])
    return path.resolve().parent.name if path.name == INIT_CONFIG else path.stem


def resolve_configs(args: list[str]) -> list[str]:
    """The arguments with every ``--config`` name replaced by the file that it stands for.

    Raises:
        ConfigError: if there is no such file, or it is not YAML.
    """
    resolved, expects_name = [], False
    for arg in args:
        if expects_name:
            arg = _readable(find_config(arg))
        elif arg.startswith(("--config=", "-c=")):
            option, name = arg.split("=", 1)
            arg = f"{option}={_readable(find_config(name))}"
        expects_name = arg in ("--config", "-c")
        resolved.append(arg)
    return resolved


def _readable(path: str) -> str:
    """``path`` itself; the parser's own complaint about its content would not name the file."""
    try:
        yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"Config {path} is not valid YAML: {error}.") from error
    return path
