"""Files that are written as a whole or not at all."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

from epic_pl.utils.untrusted import require_regular

_ABANDONED_S = 600  # without a write: then its writer must have been killed
_PARTIAL = f".{'[0-9a-f]' * 16}.partial"  # of this module alone, in folders of users


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of ``path`` once its content is on the disk.

    If several processes write the same file, the last one to finish wins. A symbolic link is
    replaced, not what it leads to.

    Raises:
        OSError: the file cannot be written. The error names ``path``, which is as before.
    """
    partial = _partial(path)
    try:
        yield partial
        _flush(partial, os.O_RDWR)  # Windows flushes no file that is open for reading only
        partial.replace(path)
    except OSError as error:
        if error.filename in (None, str(partial)):
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    # else the rename may not survive a power failure; not every system can flush a folder
    with suppress(OSError):
        _flush(path.parent, os.O_RDONLY)


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A hidden folder in that of ``path``, for files that will be moved; it is removed."""
    folder = _partial(path)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _partial(path: Path) -> Path:
    """A hidden name in the folder of ``path``, which is made and cleared of abandoned ones.

    What nobody has written to for ten minutes was left by processes that were killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(_PARTIAL):
        with suppress(OSError):  # another process removes it, too
            if time.time() - left.lstat().st_mtime > _ABANDONED_S:
                is_folder = left.is_dir() and not left.is_symlink()
                shutil.rmtree(left) if is_folder else left.unlink()
    return path.with_name(f".{token_hex(8)}.partial")  # short, for long names


def _flush(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
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
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    # a path may have bytes that are not UTF-8; JSON spells them as this error handler does
    write_bytes(path, text.encode(errors="backslashreplace"))


def try_read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is none that can be read."""
    try:
        require_regular(path)
        with path.open(encoding="utf-8") as file:
            content = json.loads(file.read(2**26))  # a longer one is not ours
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
