"""Work that independent processes share, and tables that they write part by part."""

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from epic_pl.errors import ConfigError, DataError
from epic_pl.files import replacing

BATCHES = 64  # in a part
_KEY = b"epic_pl"  # of a part's metadata


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


def digest_of(*made_of: object) -> str:
    """A short name for what an output is made of."""
    text = repr(made_of).encode(errors="surrogateescape")
    return hashlib.sha256(text).hexdigest()[:32]


class PartWriter:
    """Writes a table as Parquet files in a folder, one for every 64 batches of rows.

    Files appear as a whole, and finished ones are not written again. So any number of processes may
    write to one folder, and be killed and started again: batches, and so files, are the same.

    Args:
        folder: of the files, ``part-000000.parquet`` and so on.
        rows: number of rows of the whole table.
        batch_size: number of rows of a batch.
        share: of this process.
        *made_of: what identifies rows, model and options; each file has a hash of it.

    Raises:
        DataError: the folder has files with another hash.
    """

    def __init__(
        self, folder: Path, rows: int, batch_size: int, share: Share, *made_of: object
    ) -> None:
        self.folder, self.total = folder, -(-rows // (size := batch_size * BATCHES))
        self._metadata = {_KEY: digest_of(batch_size, *made_of).encode()}
        self._tables: list[pa.Table] = []
        done = self._finished()
        self._todo = [
            (path, range(number * size, min(number * size + size, rows)))
            for number in range(share.index, self.total, share.count)
            if (path := folder / f"part-{number:06}.parquet") not in done
        ]

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
            with replacing(path) as partial:
                pq.write_table(table.replace_schema_metadata(self._metadata), partial)
            del self._tables[:], self._todo[0]

    def _finished(self) -> set[Path]:
        """The files that are there by now, whoever wrote them."""
        done = set()
        for path in self.folder.glob("part-*.parquet"):
            with suppress(OSError, pa.ArrowInvalid):  # damaged: it is written again
                if (pq.read_schema(path).metadata or {}).get(_KEY) != self._metadata[_KEY]:
                    raise DataError(
                        f"{path} was written with other rows, another model, or other options "
                        "(among them the batch size, the precision and the feature cache): give "
                        f"another folder, or remove {self.folder}."
                    )
                done.add(path)
        return done

    def __str__(self) -> str:
        done = len(self._finished())
        more = ", others are still to be written" if done < self.total else ""
        return f"{done:,} of {self.total:,} files are in {self.folder}{more}"
