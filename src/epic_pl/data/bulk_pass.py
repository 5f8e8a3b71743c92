"""A pass over a table that writes results part by part; a process may be killed and restarted."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from torch.utils.data import DataLoader, Dataset

from epic_pl.data.images import BadSamplePolicy, usable_rows
from epic_pl.data.loading import EvalSampler, init_worker
from epic_pl.data.row_cache import image_states
from epic_pl.data.rows import Rows, rows_digest
from epic_pl.utils.errors import DataError
from epic_pl.utils.files import replacing
from epic_pl.utils.share import Share
from epic_pl.utils.types import Batch

BATCHES = 64  # batches in a part
_MADE_BY, _ROWS, _POLICY = b"epic_pl", b"epic_pl.rows", b"epic_pl.on_bad_sample"  # metadata


class BulkPass:
    """The parts of a table that one process has to write, a Parquet file for every 64 batches.

    A part has successive rows of the table, and batches do not cross parts. Files are written
    atomically, and finished ones are not written again. So any number of processes can write to one
    folder, and be killed and started again: the files equal those of one process, byte by byte. A
    process reads only its own rows and images. Skipped rows make a part shorter.

    Args:
        folder: folder of the files ``part-000000.parquet`` and so on.
        rows: rows of the whole table, not yet checked.
        batch_size: number of rows of a batch.
        share: share of the parts that this process writes.
        policy: ``on_bad_sample``, for rows with a bad image or without image and text. A pass that
            stopped at such a row under ``error`` can go on with ``skip`` or ``absent``.
        model: digest of the model.
        **options: everything else that the files depend on, as plain types.

    Raises:
        DataError: if the table has no rows, the folder has files of another model, number of rows
            or other options, or rows or image files of this share have changed since.
    """

    def __init__(
        self,
        folder: Path,
        rows: Rows,
        batch_size: int,
        share: Share,
        policy: BadSamplePolicy,
        model: str,
        **options: object,
    ) -> None:
        table, size = rows.table, batch_size * BATCHES
        if not table.num_rows:
            raise DataError(f"{rows.source} has no rows. Check that it was exported whole.")
        self.folder, self.total = folder, -(-table.num_rows // size)
        self._rows, self._batch_size, self._policy = rows, batch_size, policy
        options |= {"batch_size": batch_size}
        self._made_by = _digest(repr((model, str(len(table)), sorted(options.items()))))
        own = {
            folder / f"part-{number:06}.parquet": table.slice(number * size, size)
            for number in range(share.index, self.total, share.count)
        }
        images = pc.unique(pa.concat_tables([table[:0], *own.values()])["image"]).drop_null()
        self._states = image_states(images.to_pylist(), rows.image_root)
        self._digests = {path: self._rows_digest(part) for path, part in own.items()}
        done = self._finished()
        self._todo = {path: part for path, part in own.items() if path not in done}
        self._lengths: list[int] = []
        self._tables: list[pa.Table] = []

    def _rows_digest(self, part: pa.Table) -> bytes:
        states = [self._states[path] for path in part["image"].drop_null().to_pylist()]
        return _digest(f"{rows_digest(part)} {states}")

    def check(self, min_size: int | None, empty: pa.Table) -> tuple[Rows, str]:
        """Check the rows of all parts that are to be written.

        Args:
            min_size: as in :func:`~epic_pl.data.images.read_image`.
            empty: table without rows, which is written at once for parts without usable rows.

        Returns:
            The usable rows, in their order, and a note on the others; see
            :func:`~epic_pl.data.images.usable_rows`.

        Raises:
            DataError: if the policy is ``error`` and a row cannot be used, or no row can.
        """
        parts = list(self._todo.values())
        table = pa.concat_tables([self._rows.table[:0], *parts])
        numbers = [number for number, part in enumerate(parts) for _ in range(len(part))]
        table = table.append_column("part", pa.array(numbers, pa.int64()))
        rows = replace(self._rows, table=table)
        table, note = usable_rows(rows, self._policy, min_size, self._states)
        if not len(table) and len(self._todo) == self.total:
            raise DataError(f"No row of {rows.source} can be used: {note}. Correct the rows.")
        lengths = np.bincount(table["part"].to_numpy(), minlength=len(parts)).tolist()
        for path, length in zip(list(self._todo), lengths, strict=True):
            if not length:
                self._write(path, empty)
        self._lengths = [length for length in lengths if length]
        return replace(rows, table=table.drop_columns("part")), note

    def loader(
        self, dataset: Dataset[Any], collate_fn: Callable[[Any], Batch], **options: Any
    ) -> DataLoader[Batch]:
        """A loader of the rows that :meth:`check` returned; :meth:`add` takes its results.

        Args:
            dataset: dataset of these rows.
            collate_fn: function that makes a batch of samples.
            **options: further options of the DataLoader.
        """
        batches, start = list[range](), 0
        for length in self._lengths:
            rows = range(start, start := start + length)
            batches += [rows[at:][: self._batch_size] for at in range(0, length, self._batch_size)]
        return DataLoader(
            cast(Dataset[Any], batches),
            batch_size=None,
            sampler=EvalSampler(batches, num_replicas=1, rank=0),  # each rank has its own share
            collate_fn=partial(_read_batch, dataset, collate_fn),
            worker_init_fn=init_worker,
            **options,
        )

    def add(self, batch: pa.Table) -> None:
        """Add the table of the next batch, and write a file when its part is complete."""
        self._tables.append(batch)
        if sum(map(len, self._tables)) == self._lengths[0]:
            self._write(next(iter(self._todo)), pa.concat_tables(self._tables))
            del self._tables[:], self._lengths[0]

    def _write(self, path: Path, table: pa.Table) -> None:
        metadata = {_MADE_BY: self._made_by, _ROWS: self._digests[path], _POLICY: self._policy}
        with replacing(path) as partial:
            pq.write_table(table.combine_chunks().replace_schema_metadata(metadata), partial)
        del self._todo[path]

    def _finished(self) -> set[Path]:
        """The finished files of this process and all others."""
        done = set()
        for path in self.folder.glob("part-*.parquet"):
            with suppress(OSError, pa.ArrowInvalid):  # a damaged file is written again
                found = pq.read_schema(path).metadata or {}
                rows, policy = found.get(_ROWS), found.get(_POLICY)
                same = found.get(_MADE_BY) == self._made_by
                same &= policy in (b"error", self._policy.encode())
                if not same or rows != self._digests.get(path, rows):
                    raise DataError(
                        f"{path} was written with other rows or image files, another model, or "
                        "other options (as the batch size): give another folder, or remove this."
                    )
                done.add(path)
        return done

    def __str__(self) -> str:
        done = len(self._finished())
        more = ", others are still to be written" if done < self.total else ""
        return f"{done:,} of {self.total:,} files are in {self.folder}{more}"


def _digest(text: str) -> bytes:
    """A short hash, as metadata of a Parquet file."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32].encode()


def _read_batch(dataset: Any, collate: Callable[[Any], Batch], rows: range) -> Batch:
    if hasattr(dataset, "__getitems__"):  # a dataset of stored features
        return collate(dataset.__getitems__([*rows]))
    return collate([dataset[row] for row in rows])


def whole_batch(batch: Any) -> Any:
    """Collate function for a dataset whose items are whole batches."""
    return batch
