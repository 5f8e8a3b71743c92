"""``epic-pl doctor``: versions, devices and encoders of this machine."""

import platform
from contextlib import suppress
from typing import Any, get_args

from huggingface_hub import model_info

from epic_pl.utils.assets.encoders import UNREACHED, cached_commit, fetched_folder, repository
from epic_pl.utils.config_files import find_config, read_yaml
from epic_pl.utils.errors import first_line, printable
from epic_pl.utils.types import Modality
from epic_pl.utils.version import __version__


def doctor(config: str = "table.yaml") -> int:
    """Show versions and devices, and whether a config's encoders can be fetched (exit code 0).

    Args:
        config: config whose encoders are checked.

    Raises:
        ConfigError: if there is no such config.
    """
    import torch

    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    devices += ["Apple's GPU"] * torch.backends.mps.is_available()
    print(f"epic_pl {__version__}, Python {platform.python_version()}, {platform.platform()}")
    print(f"torch {torch.__version__}, {', '.join(devices) or 'no GPU'}")
    content: Any = read_yaml(find_config(config))
    code = 0
    for side in get_args(Modality):
        with suppress(LookupError, TypeError):  # this config names no such encoder
            encoder = content["model"]["encoders"][side]
            name = str(encoder["name"])
            try:
                place = _place(name, side, encoder.get("revision"))
            except Exception as error:  # errors of any HTTP library
                code, place = 1, f"wrong: {first_line(error)}. {UNREACHED}."
            print(printable(f"{side} encoder {name}: {place}"))
    return code


def _place(name: str, side: Modality, revision: str | None) -> str:
    """The place of an encoder's files; raises any error if they cannot be fetched."""
    source, revision = repository(name, side), revision or name.partition("@")[2] or None
    if source is None:
        return "on this machine" if fetched_folder(name) else "pip fetches it at its first use"
    if not cached_commit(source, revision):
        model_info(source, revision=revision, timeout=10)
    return f"on this machine or the hub ({source})"
