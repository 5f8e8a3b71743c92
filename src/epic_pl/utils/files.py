"""Atomic writes, by which a file is written as a whole or not at all, and reading of JSON."""

import gzip
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

from epic_pl.utils.errors import DataError, raised_as
from epic_pl.utils.untrusted import require_regular

_ABANDONED_S = 600  # seconds without a write after which the writer must have been killed
_PARTIAL = f".{'[0-9a-f]' * 16}.partial"  # no other program makes such names


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a file to write, which replaces ``path`` when its content is on the disk.

    If several processes write the same file, the last one to finish wins. A symbolic link is
    replaced, not its target.

    Raises:
        OSError: if the file cannot be written. The error names ``path``, which is unchanged.
    """
    partial = _partial(path)
    try:
        yield partial
        _flush(partial, os.O_RDWR)  # Windows cannot flush a file that is open for reading
        partial.replace(path)
    except OSError as error:
        if error.filename in (None, str(partial)):
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    # so that the rename survives a power failure; not every system can flush a folder
    with suppress(OSError):
        _flush(path.parent, os.O_RDONLY)


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Yield a hidden folder beside ``path``, for files to be moved; it is removed at the end."""
    folder = _partial(path)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _partial(path: Path) -> Path:
    """A hidden name in the folder of ``path``; the folder is made, and old hidden files removed.

    Hidden files without a write for ten minutes were left by processes that were killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    now = path.parent.stat().st_mtime  # by the clock of the disk, since this machine's may jump
    for left in path.parent.glob(_PARTIAL):
        with suppress(OSError):  # another process may remove it first
            if now - left.lstat().st_mtime > _ABANDONED_S:
                is_folder = left.is_dir() and not left.is_symlink()
                shutil.rmtree(left) if is_folder else left.unlink()
    return path.with_name(f".{token_hex(8)}.partial")  # short, since names have a maximum length


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


def read_json(path: Path, kind: type[dict[str, Any]] | type[list[Any]] = dict) -> Any:
    """Read a JSON file whose top level is a ``kind``.

    Raises:
        DataError: if the file cannot be read, or holds something else.
    """
    with raised_as(DataError, f"{path} cannot be read as JSON", "Fetch it again."):
        require_regular(path)
        value = _parsed(path.read_text(encoding="utf-8-sig"))
    if not isinstance(value, kind):
        raise DataError(f"{path} must hold a JSON {kind.__name__}, not a {type(value).__name__}.")
    return value


def json_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and object of each line of a JSON-lines file, also of a gzipped one.

    Raises:
        DataError: if a line is no object.
    """
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                row = _parsed(line) if line else None
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}, line {number} is no JSON: {error}.") from error
            if isinstance(row, dict):
                yield number, row
            elif line:
                raise DataError(f"{path}, line {number} must be a JSON object, but is {line[:60]}.")


def _parsed(text: str) -> Any:
    value = json.loads(text)
    if "\\ud" in text.lower():  # perhaps half of an emoji, which other formats cannot store
        json.dumps(value, ensure_ascii=False).encode()
    return value


def try_read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if it cannot be read."""
    with suppress(DataError):
        content: dict[str, Any] = read_json(path)
        return content
    return None


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk of a folder, which need not exist yet."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(place).free
