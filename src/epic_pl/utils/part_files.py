"""Work that independent processes share, and tables that they write part by part."""

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from epic_pl.utils.errors import ConfigError, DataError
from epic_pl.utils.files import replacing

BATCHES = 64  # in a part
_MADE_OF, _FILES = b"epic_pl", b"epic_pl.files"  # keys of a part's metadata


@dataclass(frozen=True)
class Share:
    """Which pieces of work are this process's: every ``count``-th, from ``index`` on."""

    index: int = 0
    count: int = 1

    @classmethod
    def of(cls, shard: str | None, rank: int = 0, ranks: int = 1) -> "Share":
        """The share of one of the ranks that work on a shard.

        Args:
            shard: ``i/n`` with i from 1 to n, such as ``3/8``; None is all.
            rank: of this process, from 0.
            ranks: number of processes that work on this shard.

        Raises:
            ConfigError: that is no shard.
        """
        given = re.fullmatch(r"(\d{1,9})/(\d{1,9})", "1/1" if shard is None else shard)
        number, count = map(int, given.groups()) if given else (0, 0)
        if not 1 <= number <= count:
            raise ConfigError(f"shard is {shard!r}: give 1/8 to 8/8 to eight processes.")
        return cls((number - 1) * ranks + rank, count * ranks)


ALL = Share()


def identity(model: str, rows: str, **options: object) -> str:
    """A short name for all that an output depends on.

    Args:
        model: a digest of it.
        rows: a digest of them, or their address.
        **options: everything else, as plain types.
    """
    text = repr((model, rows, sorted(options.items()))).encode(errors="surrogateescape")
    return hashlib.sha256(text).hexdigest()[:32]


class _Rows(Protocol):  # an ImageTextDataset
    def __len__(self) -> int: ...
    def digest(self) -> str: ...
    def files_digest(self, rows: range) -> str: ...


class PartWriter:
    """Writes a table as Parquet files in a folder, one for every 64 batches of rows.

    Files appear as a whole, and finished ones are not written again. So any number of processes may
    write to one folder, and be killed and started again: batches, and so files, are the same.

    Args:
        folder: of the files, ``part-000000.parquet`` and so on.
        rows: of the whole table.
        batch_size: number of rows of a batch.
        share: of this process.
        model: a digest of it.
        **options: everything else that the files depend on, see :func:`identity`.

    Raises:
        DataError: the folder has files with another identity, or of this share with image files
            that have changed since.
    """

    def __init__(
        self,
        folder: Path,
        rows: _Rows,
        batch_size: int,
        share: Share,
        model: str,
        **options: object,
    ) -> None:
        self.folder, self.total = folder, -(-len(rows) // (size := batch_size * BATCHES))
        made_of = identity(model, rows.digest(), batch_size=batch_size, **options)
        self._made_of = made_of.encode()
        own = {
            folder / f"part-{number:06}.parquet": range(len(rows))[number * size :][:size]
            for number in range(share.index, self.total, share.count)
        }
        self._files = {path: rows.files_digest(part).encode() for path, part in own.items()}
        self._tables: list[pa.Table] = []
        done = self._finished()
        self._todo = [(path, part) for path, part in own.items() if path not in done]

    @property
    def rows(self) -> list[int]:
        """Rows that this process has to give to :meth:`add`, in this order."""
        return [row for _, part in self._todo for row in part]

    def add(self, batch: pa.Table) -> None:
        """Take the table of the next batch, and write a file if it is complete."""
        self._tables.append(batch)
        path, part = self._todo[0]
        if sum(map(len, self._tables)) == len(part):
            table = pa.concat_tables(self._tables).combine_chunks()
            metadata = {_MADE_OF: self._made_of, _FILES: self._files[path]}
            with replacing(path) as partial:
                pq.write_table(table.replace_schema_metadata(metadata), partial)
            del self._tables[:], self._todo[0]

    def _finished(self) -> set[Path]:
        """The files that are there by now, whoever wrote them."""
        done = set()
        for path in self.folder.glob("part-*.parquet"):
            with suppress(OSError, pa.ArrowInvalid):  # damaged: it is written again
                found = pq.read_schema(path).metadata or {}
                files = found.get(_FILES)
                if (found.get(_MADE_OF), self._files.get(path, files)) != (self._made_of, files):
                    raise DataError(
                        f"{path} was written with other rows or image files, another model, or "
                        "other options (among them the batch size, the precision and the feature "
                        f"cache): give another folder, or remove {self.folder}."
                    )
                done.add(path)
        return done

    def __str__(self) -> str:
        done = len(self._finished())
        more = ", others are still to be written" if done < self.total else ""
        return f"{done:,} of {self.total:,} files are in {self.folder}{more}"
