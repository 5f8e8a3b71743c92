"""Names of encoders on a model hub, and their cached commits."""

from pathlib import Path
from typing import Literal

from huggingface_hub import try_to_load_from_cache

Side = Literal["image", "text"]


def repository(name: str, side: Side) -> str | None:
    """The hub repository of an encoder; None for a folder or a `pypi:` name.

    An image encoder without a user in its name belongs to timm.
    """
    if name.startswith(("pypi:", "local-dir:")) or Path(name).exists():
        return None
    hub_name = name.removeprefix("hf-hub:").partition("@")[0]
    return hub_name if side == "text" or "/" in hub_name else f"timm/{hub_name}"


def cached_commit(repository: str, revision: str | None = None) -> str | None:
    """The commit of a repository in the local cache; None if there is none."""
    try:
        file = try_to_load_from_cache(repository, "config.json", revision=revision)
    except ValueError:  # not a valid repository name
        return None
    return Path(file).parent.name if isinstance(file, str) else None
