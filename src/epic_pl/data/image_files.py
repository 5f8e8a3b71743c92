"""Which images of a dataset are there and can be decoded, looked up once for many rows."""

import os
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from epic_pl.errors import DataError

_THREADS = 8


def leads_out(path: str, root: Path) -> bool:
    """Whether a path leaves the image root; links are not followed."""
    if not os.path.isabs(path) and ".." not in path:
        return False
    return not Path(os.path.normpath(os.path.join(root, path))).is_relative_to(root)


def refuse_outside(paths: Collection[str], root: Path, source: Path) -> None:
    """Refuse paths that leave the image root."""
    outside = [path for path in paths if leads_out(path, root)]
    if outside:
        raise DataError(
            f"{source}: {len(outside):,} image paths lead out of the image root {root}, for "
            f"example {outside[0]!r}. Move these images into it and correct the paths; for a "
            "table of your own set image_root to a folder that holds them all."
        )


def image_file(root: Path, path: str) -> Path:
    """The file that an image's path leads to, links followed."""
    try:
        return (root / path).resolve()
    # a NUL character; a circle, by the version of Python
    except (ValueError, RuntimeError, OSError) as error:
        raise DataError(
            f"Image {path!r} below {root} leads to no file: {error}. Correct the path or the "
            "link, or leave the image out of the table."
        ) from error


def missing_images(paths: Collection[str], root: Path) -> dict[str, str]:
    """Paths that are no file, each with a problem."""
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda path: os.path.isfile(root / path), paths, chunksize=256)
        return {
            path: f"there is no such file{missing_hint(path)}"
            for path, is_file in zip(paths, found, strict=True)
            if not is_file
        }


def missing_hint(path: str) -> str:
    """The way out for a path that is no file, where it shows; follows the problem in a message."""
    if path.startswith(("http://", "https://")):
        return "; it is an address: fetch the image and name the file"
    return "; write the path with / instead of \\" if "\\" in path else ""


def unreadable_images(paths: Collection[str], read: Callable[[str], Any]) -> dict[str, str]:
    """Paths whose image cannot be decoded, each with the problem."""

    def problem(path: str) -> str | None:
        try:
            read(path)
        except DataError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(_THREADS) as pool:
        found = zip(paths, pool.map(problem, paths), strict=True)
        return {path: why for path, why in found if why is not None}
