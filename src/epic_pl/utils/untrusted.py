"""Checks of users' files and values on which a reader or parser would hang, crash or run them.

This file uses only the standard library, since exported models come with a copy of it.
"""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

MOST_OPTIONS = 100_000
# cells that a spreadsheet runs, also with apostrophes before them, so that quoting can be undone
FORMULA = "\\A('*([=@\t\r\n]|[-+][0-9.,]*[^0-9.,]))"
QUOTED = f"\\A'{FORMULA[2:]}"
_DEEPEST = 64  # Arrow's own limit for files
_DO_NOT_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def require_regular(path: Path | str) -> None:
    """Raise OSError for a pipe, socket or device, for which a reader would wait."""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise OSError("it is no regular file")


def open_regular(path: Path | str, follow: bool = True) -> BinaryIO:
    """Open a file, which without ``follow`` may not be a symbolic link; its path is looked up once.

    Raises:
        OSError: if it does not exist, is no regular file, or is a link without ``follow``.
    """
    if not (follow or _NO_LINK) and os.path.islink(path):  # Windows
        raise OSError(errno.ELOOP, "it is a symbolic link", str(path))
    flags = _DO_NOT_WAIT | (0 if follow else _NO_LINK)  # else opening a pipe waits for its writer
    descriptor = os.open(path, os.O_RDONLY | flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is no regular file")
    return os.fdopen(descriptor, "rb")


class OutsideError(OSError):
    """A path leads out of the folder that it must stay in."""


def open_below(root: Path, path: Path | str) -> BinaryIO:
    """Open a regular file whose path, without its links, is below a resolved folder.

    If the folder of the file is known and the file is no link, its path is not resolved again.

    Raises:
        OutsideError: if the path leads out of the folder.
        OSError: if the file does not exist or is no regular file.
    """
    folder, name = os.path.split(root / path)
    with contextlib.suppress(OSError, ValueError):  # resolve a link; report a missing file
        if (real := _resolved(folder)).is_relative_to(root):
            return open_regular(real / name, follow=False)
    full = Path(os.path.realpath(root / path))
    if not full.is_relative_to(root):
        raise OutsideError(f"{str(path)!r} leads outside of {root}")
    return open_regular(full)


@lru_cache(maxsize=10_000)
def _resolved(folder: str) -> Path:
    return Path(os.path.realpath(folder))  # resolve() raises on a circle of links


def quoted(cell: str) -> str:
    """A cell of a CSV file with an apostrophe before it, if a spreadsheet would run it."""
    return re.sub(FORMULA, r"'\1", cell)


def unquoted(cell: str) -> str:
    """The cell that :func:`quoted` was given."""
    return re.sub(QUOTED, r"\1", cell)


def integers(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """All integers in a nested value that was read from a file, with the names of their entries."""
    entries = value.items() if isinstance(value, dict) else []
    for key, part in [(name, part) for part in value] if isinstance(value, list) else entries:
        yield from integers(part, str(key))
    if isinstance(value, int):
        yield name, value


def require_flat(value: Any, most: int | None = None) -> None:
    """Check a value that was read from JSON or YAML, whose aliases may make it contain itself.

    ``most`` is the maximum number of values in it, with repetitions.

    Raises:
        ValueError: if it is nested more than 64 deep, or has too many values or a NUL character.
    """
    level = [value]
    for _ in range(_DEEPEST):
        if most is not None and any(isinstance(item, str) and "\0" in item for item in level):
            raise ValueError("a text in it has a NUL character")
        nested = (item for item in level if isinstance(item, dict | list | tuple))
        parts = (item.values() if isinstance(item, dict) else item for item in nested)
        level = list(islice(chain.from_iterable(parts), most))
        if not level:
            return
        if len(level) == most:
            raise ValueError(f"it holds more than {most:,} values")
    raise ValueError(f"it is nested more than {_DEEPEST} deep")
