"""Which pictures of a dataset are there and can be decoded, looked up once for many rows."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from epic_pl.assets.cache import cache_dir
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
            f"{source}: {len(outside):,} picture paths lead out of the image root {root}, for "
            f"example {outside[0]!r}. Move these pictures into it and correct the paths; for a "
            "table of your own set image_root to a folder that holds them all."
        )


def picture_file(root: Path, path: str) -> Path:
    """The file that a picture's path leads to, links followed."""
    try:
        return (root / path).resolve()
    # a NUL character; a circle, by the version of Python
    except (ValueError, RuntimeError, OSError) as error:
        raise DataError(
            f"Picture {path!r} below {root} leads to no file: {error}. Correct the path or the "
            "link, or leave the picture out of the table."
        ) from error


def missing_pictures(paths: Collection[str], root: Path) -> dict[str, str]:
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
        return "; it is an address: fetch the picture and name the file"
    return "; write the path with / instead of \\" if "\\" in path else ""


class PictureRecord:
    """Which pictures below a folder, or inside one file, were decoded, and which of them failed.

    A JSON file in the cache folder, so that later starts need not decode what is sound.

    Args:
        root: folder of the pictures, or the file that holds them.
    """

    def __init__(self, root: Path) -> None:
        root = root.resolve()
        # a changed file is another one
        key = f"{root} {root.stat().st_mtime_ns if root.is_file() else ''}"
        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        self.path = cache_dir() / "pictures_read" / f"{name}.json"

    def read(self) -> dict[str, str | None]:
        """Picture path to problem, None where it is sound; empty where nothing is recorded."""
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads(self.path.read_text(encoding="utf-8")))
        return {}

    def add(self, decoded: Iterable[str], bad: Mapping[str, str]) -> None:
        """Record pictures that were decoded; ``bad`` holds the problems of those that failed."""
        facts = {**self.read(), **{path: bad.get(path) for path in decoded}}
        partial = self.path.with_suffix(f".{os.getpid()}.partial")
        with contextlib.suppress(OSError):  # without a cache pictures are decoded at every start
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(facts), encoding="utf-8")
            os.replace(partial, self.path)

    def unreadable(self, paths: Collection[str], read: Callable[[str], Any]) -> dict[str, str]:
        """Paths that cannot be decoded, each with the problem.

        Decoded are those that never were, and those that failed, since they may have been repaired.

        Args:
            paths: pictures that are there.
            read: decodes one of them, or raises a DataError.
        """

        def problem(path: str) -> str | None:
            try:
                read(path)
            except DataError as error:
                return str(error)
            return None

        known = self.read()
        unsure = [path for path in paths if path not in known or known[path] is not None]
        with ThreadPoolExecutor(_THREADS) as pool:
            found = zip(unsure, pool.map(problem, unsure), strict=True)
            bad = {path: why for path, why in found if why is not None}
        if unsure:
            self.add(unsure, bad)
        return bad
