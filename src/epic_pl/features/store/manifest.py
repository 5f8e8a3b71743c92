"""The manifest, written last, and the index of items that it names."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from epic_pl.errors import CacheError
from epic_pl.features.store.shard import DIGEST, Digests, Lengths, replacing, sha256_of
from epic_pl.features.store.spec import StoreSpec, canonical

MANIFEST = "manifest.json"
SPEC = "spec.json"
_NAMES = re.compile(r"(shard|index)-[0-9]{5,}-[0-9a-f]{12}\.bin")
_MEND = "Remove the store with `epic-pl cache clear` and build it again with `epic-pl cache build`."


@dataclass(frozen=True)
class FileEntry:
    """A file of the store: name, size, checksum of all but a shard's last 32 bytes, and items."""

    name: str
    nbytes: int
    sha256: str
    items: int


@dataclass(frozen=True)
class Manifest:
    """What a complete store consists of."""

    spec: StoreSpec
    shards: tuple[FileEntry, ...]
    index: FileEntry

    def write(self, folder: Path) -> None:
        """Write it in one step; the store is complete from here on."""
        plain = {
            "spec": self.spec.to_json(),
            "shards": [asdict(shard) for shard in self.shards],
            "index": asdict(self.index),
        }
        write_json(folder / MANIFEST, plain | {"checksum": _checksum(plain)})

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """Read a store's manifest; None where there is none yet.

        Raises:
            CacheError: it was changed after it was written, is of another format, or names files
                outside of the store.
        """
        path = folder / MANIFEST
        try:
            plain = json.loads(path.read_text())
            checksum = plain.pop("checksum")
        except FileNotFoundError:
            return None
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise CacheError(f"{path} is damaged ({error!r}). {_MEND}") from error
        if checksum != _checksum(plain):
            raise CacheError(f"{path} was changed after it was written. {_MEND}")
        shards = tuple(FileEntry(**shard) for shard in plain["shards"])
        index = FileEntry(**plain["index"])
        for entry in (*shards, index):
            if not _NAMES.fullmatch(entry.name):
                raise CacheError(
                    f"{path} names {entry.name!r}, which is no file of a store. {_MEND}"
                )
        return cls(StoreSpec.from_json(plain["spec"]), shards, index)

    def broken(self, folder: Path) -> list[str]:
        """Names of files that are missing or not of their size."""
        return [e.name for e in (*self.shards, self.index) if size_of(folder / e.name) != e.nbytes]

    def check_files(self, folder: Path) -> None:
        """Compare the files' sizes, and the index's checksum.

        Raises:
            CacheError: a file is missing, truncated, or another one.
        """
        if broken := self.broken(folder):
            raise CacheError(
                f"The feature store {folder} is damaged: {', '.join(broken)} is missing or "
                "truncated. Check the rest with `epic-pl cache verify`, and write what is missing "
                "again with `epic-pl cache build`."
            )
        with (folder / self.index.name).open("rb") as file:
            if sha256_of(file).hex() != self.index.sha256:
                raise CacheError(
                    f"{folder / self.index.name} was changed after it was written. {_MEND}"
                )


def write_json(path: Path, plain: dict[str, Any]) -> None:
    """Write readable JSON in one step."""
    with replacing(path) as file:
        file.write((json.dumps(plain, indent=1, sort_keys=True) + "\n").encode())


def size_of(path: Path) -> int:
    """Size of a file, -1 where it is missing."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


class Index:
    """Row of each item; mapped into memory, so that processes share it.

    Attributes:
        digests: (items,) in row order.
        order: (items,) rows sorted by digest.
        lengths: (items,) tokens of each; None unless ragged.
        starts: (items,) first row of each item in its shard's token matrix; None unless ragged.
    """

    def __init__(self, path: Path, items: int, ragged: bool) -> None:
        self._path, self._items = path, items
        self.digests: Digests = self._section(0, DIGEST)
        self.order: npt.NDArray[np.int64] = self._section(16, np.dtype(np.int64))
        self.starts: npt.NDArray[np.int64] | None = None
        self.lengths: Lengths | None = None
        if ragged:
            self.starts = self._section(24, np.dtype(np.int64))
            self.lengths = self._section(32, np.dtype(np.int32))

    def _section(self, bytes_before: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        offset = bytes_before * self._items
        # a plain array over the map: np.memmap's own indexing is several times slower
        return np.asarray(np.memmap(self._path, dtype, "r", offset, (self._items,)))

    def rows(self, digests: Digests) -> npt.NDArray[np.int64]:
        """Row of each digest, -1 where absent."""
        at = np.searchsorted(self.digests, digests, sorter=self.order)
        rows = self.order[np.minimum(at, self._items - 1)]
        return np.where(self.digests[rows] == digests, rows, -1)


def write_index(folder: Path, shards: int, digests: Digests, lengths: list[Lengths]) -> FileEntry:
    """Write the index of a number of shards.

    Its name holds this number and a digest of the items: a store that grows gets another index,
    and the old one stays until the manifest names the new one.

    Args:
        folder: of the store.
        shards: number of shards.
        digests: of all items, in row order.
        lengths: tokens of the items, by shard; empty unless ragged.
    """
    items = hashlib.blake2b(digests.tobytes(), digest_size=6).hexdigest()
    name = f"index-{shards:05d}-{items}.bin"
    with replacing(folder / name) as file:
        file.write(digests.tobytes())
        file.write(np.argsort(digests, kind="stable").astype("<i8").tobytes())
        file.writelines(
            (np.cumsum(part, dtype="<i8") - part).astype("<i8").tobytes() for part in lengths
        )
        file.writelines(part.astype("<i4").tobytes() for part in lengths)
        nbytes, checksum = file.tell(), sha256_of(file).hex()
    return FileEntry(name, nbytes, checksum, len(digests))


def _checksum(plain: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(plain).encode()).hexdigest()
