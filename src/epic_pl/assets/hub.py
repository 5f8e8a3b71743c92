"""Names of encoders on a model hub, and what this machine has of them."""

from pathlib import Path
from typing import Literal

from huggingface_hub import try_to_load_from_cache

Side = Literal["image", "text"]


def repository(name: str, side: Side) -> str | None:
    """The hub's repository of an encoder; None for a folder and a `pypi:` name.

    An image encoder without a user in its name is one of timm's.
    """
    if name.startswith(("pypi:", "local-dir:")) or Path(name).exists():
        return None
    found = name.removeprefix("hf-hub:").partition("@")[0]
    return found if side == "text" or "/" in found else f"timm/{found}"


def cached_commit(repository: str, revision: str | None = None) -> str | None:
    """The commit of a repository that was fetched before; None if there is none."""
    try:
        found = try_to_load_from_cache(repository, "config.json", revision=revision)
    except ValueError:  # no name of a repository
        return None
    return Path(found).parent.name if isinstance(found, str) else None
