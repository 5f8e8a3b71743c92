"""Checks of users' files and values on which a reader or parser would hang or crash."""

import errno
import os
import stat
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

MOST_OPTIONS = 100_000
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
