"""What annotation files say, kept as an Arrow table: later starts and all ranks open it as it is.

MM-IMDB has a file for each of 26,000 films and UPMC-Food101 a page for each of 90,000 pictures; to
read them takes much longer than to look whether they are as they were.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from lightning.pytorch.utilities import rank_zero_info

from epic_pl.data.manifest import manifest_path, read_manifest, write_manifest
from epic_pl.errors import DataError

_VERSION = 1
"""Raised whenever a dataset's files come to be read as other rows."""
_THREADS = 16  # disks answer several requests at once


@dataclass(frozen=True)
class Origin:
    """All that decides on the rows of a split.

    Attributes:
        files: that are read, few of them.
        options: of the reading, and digests of what else it looks at, as plain types.
    """

    files: Sequence[Path]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class RowFacts:
    """What is known of a split's rows beside the rows.

    Attributes:
        source: the file they were read from.
        image_root: folder of the pictures, or the file that holds them.
        notes: what else to report, as words and the number of rows that they hold for.
        classes: names of the classes.
    """

    source: Path
    image_root: Path
    notes: Mapping[str, int] = field(default_factory=dict)
    classes: Sequence[str] = ()


class KeptRows:
    """The rows of one split in the cache, found again while its origin is as it was.

    Args:
        name: readable beginning of the file's name.
        origin: what the rows are read from.

    Raises:
        OSError: a file of the origin is gone.
    """

    def __init__(self, name: str, origin: Origin) -> None:
        options = {**origin.options, "rows_version": _VERSION}
        self.path = manifest_path(name, origin.files, options)

    def read(self) -> tuple[pa.Table, RowFacts] | None:
        """Rows, memory-mapped, and facts; None if none are kept."""
        kept = read_manifest(self.path)
        if kept is None:
            return None
        table, facts = kept
        root, source = Path(facts["image_root"]), Path(facts["source"])
        return table, RowFacts(source, root, facts["notes"], facts["classes"])

    def write(self, table: pa.Table, facts: RowFacts) -> None:
        """Keep rows; a cache that cannot be written costs time at the next start, no more."""
        plain = {
            "source": str(facts.source.absolute()),
            "image_root": str(facts.image_root.resolve()),
            "notes": dict(facts.notes),
            "classes": list(facts.classes),
        }
        try:
            write_manifest(self.path, table, plain)
        except DataError as error:
            rank_zero_info(f"Rows are read again at the next start: {error}")


def digest_of_files(folders: Iterable[Path], suffix: str) -> str:
    """Digest of names, sizes and times of change of the files with a suffix in some folders."""

    def state(folder: Path) -> list[tuple[str, int, int]]:
        with os.scandir(folder) as entries:
            files = [(e.name, e.stat()) for e in entries if e.name.endswith(suffix)]
        return sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in files)

    return _digest(folders, state)


def digest_of_names(folders: Iterable[Path]) -> str:
    """Digest of the names of what lies in some folders."""
    return _digest(folders, lambda folder: sorted(os.listdir(folder)))


def _digest(folders: Iterable[Path], state: Any) -> str:
    ordered = sorted(folders)
    with ThreadPoolExecutor(_THREADS) as pool:
        states = [
            [str(folder.resolve()), each]
            for folder, each in zip(ordered, pool.map(state, ordered), strict=True)
        ]
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()
