"""The cache folder, and atomically created folders in it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from epic_pl.utils.errors import AssetError, raised_as


def cache_dir() -> Path:
    """`$EPIC_PL_CACHE` if set, else `$XDG_CACHE_HOME/epic_pl`, else `~/.cache/epic_pl`."""
    if own := os.environ.get("EPIC_PL_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "epic_pl"


def cached_folder(relative: str, fill: Callable[[Path], None]) -> Path:
    """A folder of the cache, created with `fill` if it does not exist yet.

    Of several concurrent processes, one fills it and the others wait. It is renamed at the end, so
    it is always complete. `fill` writes the contents into an empty folder.

    Raises:
        AssetError: if the cache cannot be written, or `fill` fails.
    """
    target = cache_dir() / relative
    partial = target.with_name(f".{target.name}.partial")
    problem = f"The cache folder {target} cannot be used"
    with raised_as(AssetError, problem, "Set EPIC_PL_CACHE to another.", OSError):
        if target.is_dir():  # without the lock, so that a read-only cache works
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not target.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                fill(partial)
                os.replace(partial, target)
    return target
