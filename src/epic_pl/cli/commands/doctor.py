"""``epic-pl doctor``: versions, devices and encoders of this machine."""

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import Any

from huggingface_hub import model_info
from packaging.requirements import Requirement

from epic_pl.utils.assets.encoders import Side, cached_commit, fetched_folder, repository
from epic_pl.utils.config_files import find_config, read_yaml
from epic_pl.utils.errors import first_line, printable
from epic_pl.utils.version import __version__


def doctor(config: str = "table.yaml") -> int:
    """Tell versions and devices, what extras lack, and whether a config's encoders can be reached.

    The exit code is 1 if a required package or an encoder is out of reach.

    Args:
        config: the config whose encoders are looked for.

    Raises:
        ConfigError: there is no such config.
    """
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    gpus += ["Apple's GPU"] * torch.backends.mps.is_available()
    system = f"{platform.system()} {platform.machine()}"
    print(f"epic_pl {__version__}, Python {platform.python_version()}, {system}")
    print(f"torch {torch.__version__}, {', '.join(gpus) or 'no GPU'}")
    wrong = _lacking("")
    for problem in wrong:
        print(f"wrong: {problem}: install epic_pl again")
    for extra in metadata("epic_pl").get_all("Provides-Extra") or []:
        if problems := [problem for problem in _lacking(extra) if problem not in wrong]:
            print(f"extra {extra}: {', '.join(problems)}: pip install 'epic_pl[{extra}]' if needed")
    content: Any = read_yaml(find_config(config))
    sides: tuple[Side, ...] = ("image", "text")
    for side in sides:
        with suppress(LookupError, TypeError):  # this config does not name it
            encoder = content["model"]["encoders"][side]
            name = str(encoder["name"])
            place, found = _place(name, side, encoder.get("revision"))
            wrong += [] if found else [name]
            print(printable(f"{side} encoder {name}: {place}"))
    return int(bool(wrong))


def _lacking(extra: str) -> list[str]:
    """Packages of an extra, or those that are always required, that are missing or too old."""
    problems = []
    for requirement in map(Requirement, requires("epic_pl") or []):
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        found = None
        with suppress(PackageNotFoundError):
            found = version(requirement.name)
        if found is None:
            problems.append(f"{requirement.name} is missing")
        elif not requirement.specifier.contains(found, prereleases=True):
            problems.append(f"{requirement.name} is {found}, not {requirement.specifier}")
    return problems


def _place(name: str, side: Side, revision: str | None) -> tuple[str, bool]:
    """Where an encoder is, and whether it can be had."""
    source, revision = repository(name, side), revision or name.partition("@")[2] or None
    try:
        if source is not None and not cached_commit(source, revision):
            model_info(source, revision=revision, timeout=10)
        if source is None and not fetched_folder(name):
            return "pip fetches it at its first use (90 MB)", True
    except Exception as error:  # errors of any HTTP library
        return f"wrong: {first_line(error)}: check the name and the network", False
    return "on this machine" if source is None else f"on this machine or the hub ({source})", True
