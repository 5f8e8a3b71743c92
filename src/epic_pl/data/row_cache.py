"""Cache of rows, and of what was found out about images, for later runs and other ranks.

MM-IMDB has a file for each of 26,000 films, and SNLI-VE half a million rows. Reading them takes
much longer than checking that they are unchanged. Rows are stored as an uncompressed Arrow IPC
file, so that all ranks and workers of a machine share one memory map.
"""

import contextlib
import hashlib
import json
import os
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypedDict

import pyarrow as pa
from filelock import FileLock
from lightning.pytorch.utilities import rank_zero_info

from epic_pl.data.rows import Rows, any_refused, table_schema
from epic_pl.utils.assets.cached import cache_dir
from epic_pl.utils.errors import DataError
from epic_pl.utils.files import replacing
from epic_pl.utils.untrusted import require_regular
from epic_pl.utils.validate import fits

_VERSION = 5
"""Incremented when the same files are read as other rows."""
_KEY = b"epic_pl"
_CHECKSUM_BYTES = 4  # of a CRC-32, after the Arrow file
_THREADS = 16  # threads that look at files, since disks answer several requests at once
_CHUNK = 256  # number of paths that a thread takes at a time
_SAMPLES = [table_schema(multilabel) for multilabel in (False, True)]
_ROWS = [*_SAMPLES, *(schema.append(pa.field("split", pa.string())) for schema in _SAMPLES)]
_STRUCTS = "columns", "cells"  # which tables of rows may have beside these
_IMAGES = pa.schema({"image": pa.string(), "fact": pa.string()})


class _Facts(TypedDict):
    """The fields of :class:`~epic_pl.data.rows.Rows` that are stored beside its table."""

    source: str
    image_root: str
    notes: dict[str, int]
    classes: list[str]
    unpacked: str


def cached_rows(
    name: str, sources: Sequence[Path], options: Mapping[str, Any], read: Callable[[], Rows]
) -> Rows:
    """Rows from the cache if their files are unchanged; else they are read and stored.

    They are also read again if images that were unpacked from them into the cache have changed. If
    several processes of a machine start together, one reads and the others wait for it.

    Args:
        name: beginning of the cache file's name.
        sources: files that the rows are read from, and folders of such files. A folder is unchanged
            if its file names, and size and time of change of its .json and .txt files, are.
        options: everything else that the rows depend on, as plain types.
        read: function that reads the rows.
    """
    try:
        path = _cache_path(name, sources, options)
    except OSError:  # a file is missing; the reader has the better message
        return read()
    with _locked(path):
        table, facts = _read_arrow(path, *_ROWS)
        if fits(facts, _Facts):
            root, source = Path(facts["image_root"]), Path(facts["source"])
            if root.exists() and facts["unpacked"] == _unpacked_state(table, root):
                return Rows(table, root, source, facts["classes"], facts["notes"])
        rows = read()
        if any_refused():
            return rows
        facts = {
            "source": str(rows.source.absolute()),
            "image_root": str(rows.image_root.resolve()),
            "notes": dict(rows.notes),
            "classes": list(rows.classes),
            "unpacked": _unpacked_state(rows.table, rows.image_root.resolve()),
        }
        _write_arrow(path, rows.table, facts)
        return rows


def _unpacked_state(table: pa.Table, root: Path) -> str:
    """Digest of the states of images that were unpacked into the cache; empty for a user's images.

    A state has no content, so a file whose size and time of change are as before is taken as sound.
    """
    if not root.is_relative_to(cache_dir().resolve()):
        return ""
    states = image_states(table["image"].unique().drop_null().to_pylist(), root)
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()


def image_states(paths: Sequence[str], root: Path) -> dict[str, str | None]:
    """Size and time of change of each image file below ``root``; None if there is no such file.

    Nothing else looks at an image file before it is read.
    """

    def states(part: Sequence[str]) -> list[str | None]:
        return [_image_state(os.path.join(root, path)) for path in part]

    parts = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(paths, chain.from_iterable(pool.map(states, parts)), strict=True))


def _image_state(path: str) -> str | None:
    with contextlib.suppress(OSError, ValueError):  # missing, or an invalid file name
        found = os.stat(path)
        if stat.S_ISREG(found.st_mode):
            return f"{found.st_size} {found.st_mtime_ns}"
    return None


class ImageRecord:
    """A stored fact about each of some images below a folder, which holds until its file changes.

    Args:
        root: the folder.
        kind: ``images`` for the problem of each image that was decoded, None if it is sound;
            ``digests`` for the SHA-256 of its content.
    """

    def __init__(self, root: Path, kind: Literal["images", "digests"] = "images") -> None:
        self.root = root = root.resolve()
        self.path = _cache_path(kind, (), {"images_of": str(root)})

    def key(self, path: str) -> str:
        """Path, size and time of change of an image, so that a replaced image has another key."""
        return f"{path} {_image_state(os.path.join(self.root, path))}"

    def read(self) -> dict[str, Any]:
        """The stored fact of each key."""
        table, _ = _read_arrow(self.path, _IMAGES)
        return dict(zip(*(column.to_pylist() for column in table.columns), strict=True))

    def add(self, facts: Mapping[str, str | None]) -> None:
        """Store facts under the keys that the images had before they were read."""
        facts = {**self.read(), **facts}
        _write_arrow(self.path, pa.table([[*facts], [*facts.values()]], schema=_IMAGES), {})

    def digests(self, paths: Iterable[str]) -> dict[str, str]:
        """SHA-256 of the bytes of images, by path."""
        keys, known = {path: self.key(path) for path in paths}, self.read()
        new = {
            key: hashlib.sha256((self.root / path).read_bytes()).hexdigest()
            for path, key in keys.items()
            if key not in known
        }
        if new:
            self.add(new)
        known |= new
        return {path: known[key] for path, key in keys.items()}

    def unreadable(self, states: Mapping[str, str], read: Callable[[Path], Any]) -> dict[str, str]:
        """Paths of images for which ``read`` raises a DataError, with the problem.

        Images that are known as sound are not decoded again.

        Args:
            states: states of the images by path, see :func:`image_states`.
            read: function that decodes an image.
        """

        def problem(path: str) -> str | None:
            try:
                read(Path(path))
            except DataError as error:
                return str(error)
            return None

        with _locked(self.path), ThreadPoolExecutor(_THREADS) as pool:
            keys = {path: f"{path} {state}" for path, state in states.items()}
            known = self.read()
            unsure = [path for path, key in keys.items() if known.get(key, "new") is not None]
            problems = dict(zip(unsure, pool.map(problem, unsure), strict=True))
            if problems:
                self.add({keys[path]: why for path, why in problems.items()})
        return {path: why for path, why in problems.items() if why is not None}


def _cache_path(name: str, sources: Sequence[Path], options: Mapping[str, Any]) -> Path:
    """Path of a cache file; it depends on the state of the sources, so no stale file is read."""
    with ThreadPoolExecutor(_THREADS) as pool:
        states = list(pool.map(_state, sources))
    key = json.dumps([_VERSION, states, dict(options)], sort_keys=True)
    return cache_dir() / "rows" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.arrow"


def _state(path: Path) -> list[Any]:
    """The state of a source, which changes when the source does.

    For a file: path, size and time of change. For a folder: the same of its .json and .txt files,
    and the names of the others.
    """
    if not path.is_dir():
        stat = path.stat()
        return [str(path.resolve()), stat.st_size, stat.st_mtime_ns]
    with os.scandir(path) as entries:
        is_text = {entry.name: entry.name.endswith((".json", ".txt")) for entry in entries}
    files = [_state(path / name) if is_text[name] else [name] for name in sorted(is_text)]
    return [str(path.resolve()), files]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process enter at a time; without a lock if the cache cannot be written."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path.with_suffix(".lock")))
        yield


def _write_arrow(path: Path, table: pa.Table, facts: Mapping[str, Any]) -> None:
    """Write a table, facts and their checksum to a file atomically, by a rename."""
    table = table.replace_schema_metadata({_KEY: json.dumps(dict(facts))}).combine_chunks()
    try:
        # as one batch, so that a split is a slice and reading a row needs no search
        with replacing(path) as partial:
            # Windows needs it closed before the rename
            with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
                file.write_table(table, max_chunksize=max(table.num_rows, 1))
            checksum = zlib.crc32(_mapped(partial))
            with partial.open("ab") as end:
                end.write(checksum.to_bytes(_CHECKSUM_BYTES))
    except OSError as error:
        rank_zero_info(f"{path} cannot be written ({error}), so the next start reads files again")


def _mapped(path: Path) -> pa.Buffer:
    with pa.memory_map(str(path)) as file:
        return file.read_buffer()


def _read_arrow(path: Path, *schemas: pa.Schema) -> tuple[pa.Table, Any]:
    """A memory-mapped table and its facts; an empty table and None if there is no sound file."""
    with contextlib.suppress(OSError, pa.ArrowException, LookupError, ValueError, TypeError):
        require_regular(path)
        content = _mapped(path)
        content, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
        table = pa.ipc.open_file(content).read_all()
        table.validate(full=True)  # else a doctored offset would read other memory
        sound = zlib.crc32(content) == int.from_bytes(checksum)
        structs = {f.name for f in table.schema if pa.types.is_struct(f.type)}
        plain = [f for f in table.schema if f.name not in structs.intersection(_STRUCTS)]
        if sound and any(pa.schema(plain).equals(schema) for schema in schemas):
            return table, json.loads(table.schema.metadata[_KEY])
    return schemas[0].empty_table(), None
