"""Shard files: written whole or not at all, self-describing, mapped into memory to be read.

header   64 bytes: magic, items n, tokens T, digest of the spec, digest of the item digests
items    (n, words) int64
tokens   (T, words) int64, ragged stores only
lengths  (n,) int32, ragged stores only
digests  (n, 16) bytes
sha256   32 bytes, of all the above
"""

import hashlib
import mmap
import os
import struct
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from epic_pl.errors import CacheError
from epic_pl.features.store.records import Layout, Words

DIGEST = np.dtype("S16")
Digests = npt.NDArray[np.bytes_]
Lengths = npt.NDArray[np.int32]
Packed = tuple[Words, Words, Lengths | None]  # items, tokens, tokens per item
_HEADER = struct.Struct("<8sQQ16s16s8x")
_MAGIC = b"EPICPL\x00\x01"
_CHUNK = 1 << 22


def digests_of(hashes: Iterable[str]) -> Digests:
    """Shorten item hashes to 16 bytes each."""
    joined = b"".join(hashlib.blake2b(h.encode(), digest_size=16).digest() for h in hashes)
    return np.frombuffer(joined, DIGEST)


@dataclass(frozen=True)
class ShardHeader:
    """The first 64 bytes.

    Attributes:
        items: number of items.
        tokens: number of tokens of all of them; 0 unless ragged.
        spec: digest of the store's key.
        plan: digest of the items' digests.
    """

    items: int
    tokens: int
    spec: bytes
    plan: bytes

    @classmethod
    def of(cls, layout: Layout, digests: Digests, tokens: int = 0) -> "ShardHeader":
        """The header of a shard with these items."""
        spec = hashlib.blake2b(layout.spec.key.encode(), digest_size=16).digest()
        plan = hashlib.blake2b(digests.tobytes(), digest_size=16).digest()
        return cls(len(digests), tokens, spec, plan)

    @classmethod
    def read(cls, path: Path) -> "ShardHeader | None":
        """The header of a file; None where it has none."""
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
        if len(head) < _HEADER.size or not head.startswith(_MAGIC):
            return None
        return cls(*_HEADER.unpack(head)[1:])

    def pack(self) -> bytes:
        """The 64 bytes."""
        return _HEADER.pack(_MAGIC, self.items, self.tokens, self.spec, self.plan)

    def lengths_at(self, layout: Layout) -> int:
        """Offset in bytes of the lengths, behind the two matrices."""
        return _HEADER.size + self.items * layout.item.nbytes + self.tokens * layout.token.nbytes

    def digests_at(self, layout: Layout) -> int:
        """Offset in bytes of the digests."""
        return self.lengths_at(layout) + (4 * self.items if layout.spec.ragged else 0)

    def nbytes(self, layout: Layout) -> int:
        """Size of the file."""
        return self.digests_at(layout) + self.items * DIGEST.itemsize + 32


def is_whole(path: Path, layout: Layout, digests: Digests) -> bool:
    """Tell whether the file holds exactly these items and has its full size."""
    try:
        header = ShardHeader.read(path)
        size = path.stat().st_size
    except FileNotFoundError:
        return False
    return (
        header is not None
        and header == ShardHeader.of(layout, digests, header.tokens)
        and size == header.nbytes(layout)
    )


def write_shard(path: Path, layout: Layout, digests: Digests, batches: Iterable[Packed]) -> None:
    """Write a shard beside its place, flush it to disk, then rename it into place.

    Args:
        path: of the shard; no other process may write it at the same time.
        layout: of the store.
        digests: of its items, in order.
        batches: their packed records, in order.
    """
    header = ShardHeader.of(layout, digests)
    with replacing(path) as file:
        done, tokens = 0, 0
        lengths: list[Lengths] = []
        for item_rows, token_rows, batch_lengths in batches:
            file.seek(_HEADER.size + done * layout.item.nbytes)
            file.write(item_rows.data)
            file.seek(header.lengths_at(layout) + tokens * layout.token.nbytes)
            file.write(token_rows.data)
            done, tokens = done + len(item_rows), tokens + len(token_rows)
            if batch_lengths is not None:
                lengths.append(batch_lengths)
        header = ShardHeader.of(layout, digests, tokens)
        file.seek(0)
        file.write(header.pack())
        file.seek(header.lengths_at(layout))
        file.write(b"".join(part.astype("<i4").tobytes() for part in lengths) + digests.tobytes())
        file.write(sha256_of(file))


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces ``path`` once it is complete and on the disk."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # makes the rename itself last
    finally:
        os.close(folder)


def sha256_of(file: BinaryIO, stop: int | None = None) -> bytes:
    """SHA-256 of a file from its start up to a byte (default its end), left there."""
    file.seek(0)
    digest = hashlib.sha256()
    left = stop
    while chunk := file.read(_CHUNK if left is None else min(_CHUNK, left)):
        digest.update(chunk)
        left = None if left is None else left - len(chunk)
    return digest.digest()


class ShardTail(NamedTuple):
    """A shard's lengths, digests and checksum, behind its matrices."""

    lengths: Lengths | None
    digests: Digests
    sha256: str


def read_tail(path: Path, layout: Layout) -> ShardTail:
    """Read a whole shard's tail."""
    header = ShardHeader.read(path)
    assert header is not None
    with path.open("rb") as file:
        file.seek(header.lengths_at(layout))
        ragged = layout.spec.ragged
        lengths = np.frombuffer(file.read(4 * header.items), "<i4") if ragged else None
        digests = np.frombuffer(file.read(DIGEST.itemsize * header.items), DIGEST)
        return ShardTail(lengths, digests, file.read(32).hex())


class Shard:
    """A shard mapped into memory.

    Attributes:
        items: (n, words) int64, read-only.
        tokens: (T, words) int64, read-only.
    """

    def __init__(self, path: Path, layout: Layout, items: int) -> None:
        header = ShardHeader.read(path)
        if header is None or header.items != items or header.nbytes(layout) != path.stat().st_size:
            raise CacheError(
                f"The shard {path} is not the one that its manifest names. Check the store with "
                "`epic-pl cache verify`, and write it again with `epic-pl cache build`."
            )
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._layout = layout
        self._tokens_at = _HEADER.size + items * layout.item.nbytes
        self.items = self._matrix(_HEADER.size, items, layout.item.words)
        self.tokens = self._matrix(self._tokens_at, header.tokens, layout.token.words)

    def _matrix(self, offset: int, rows: int, words: int) -> Tensor:
        flat = np.frombuffer(self._map, np.int64, rows * words, offset)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable")
            return torch.from_numpy(flat).view(rows, words)

    def will_need(self, item: int, start: int, tokens: int) -> None:
        """Ask the system to read an item, and its tokens from row ``start``, ahead of use."""
        size = self._layout.item.nbytes
        self._advise(_HEADER.size + item * size, size)
        size = self._layout.token.nbytes
        self._advise(self._tokens_at + start * size, tokens * size)

    def _advise(self, offset: int, size: int) -> None:
        if size and hasattr(mmap, "MADV_WILLNEED"):
            first = offset - offset % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_WILLNEED, first, offset + size - first)
