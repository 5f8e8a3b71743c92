"""Files that are written as a whole or not at all."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

from epic_pl.untrusted import require_regular

_ABANDONED_S = 600  # no file takes as long to be written


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of ``path`` once its content is on the disk.

    Of several processes that write the same file, the last one's stays. Files that killed processes
    have left half-written in the folder are removed.

    Raises:
        OSError: the file cannot be written; it has a file name, and ``path`` is as before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(".*.partial"):
        with suppress(OSError):  # another process removes it, too
            if time.time() - left.lstat().st_mtime > _ABANDONED_S:
                left.unlink()
    partial = path.with_name(f".{path.name}.{token_hex(4)}.partial")
    try:
        yield partial
        _flush(partial)
        partial.replace(path)
        if os.name != "nt":  # Windows cannot open a folder
            _flush(path.parent)  # else the rename may not survive a power failure
    except OSError as error:
        if error.filename in (None, str(partial)):
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file in one step, as :func:`replacing` does."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file in one step."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file in one step."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def try_read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is none that can be read."""
    try:
        require_regular(path)
        with path.open(encoding="utf-8") as file:
            content = json.loads(file.read(2**26))  # a longer one is not ours
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
