"""Annotation files of published datasets; errors name file and row."""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.data.rows import refuse_rows
from epic_pl.utils.errors import DataError
from epic_pl.utils.files import json_objects
from epic_pl.utils.validate import fits


def find_path(data_dir: str | Path, names: Sequence[str], how_to_get: str) -> Path:
    """The first of ``names`` that exists as a file or folder in ``data_dir`` or one level below.

    Raises:
        DataError: if there is none; the message ends with ``how_to_get``.
    """
    root = Path(data_dir)
    for name in names:
        for path in (root / name, *sorted(root.glob(f"*/{glob.escape(name)}"))):
            if path.exists():
                return path
    raise DataError(
        f"{root.absolute()} has no {' or '.join(names)}, nor has a folder in it. Name the "
        f"dataset's folder with --data.init_args.data_dir, or get it: {how_to_get}"
    )


def read_jsonl(path: Path, columns: Sequence[str], required: Sequence[str] = ()) -> pa.Table:
    """Read some columns of a JSON-lines file as strings, null if a row lacks the column.

    Raises:
        DataError: if the file has no rows or a broken one, or a row lacks a ``required`` column.
    """
    values: dict[str, list[str | None]] = {name: [] for name in columns}
    for number, row in json_objects(path):
        for name, column in values.items():
            column.append(_string(row.get(name), name, path, number))
    table = pa.table({name: pa.array(column, pa.string()) for name, column in values.items()})
    if not table.num_rows:
        raise DataError(f"{path} holds no rows. Fetch it again.")
    for name in required:
        way_out = "Rows count from 0; fetch the dataset's own file."
        refuse_rows(pc.is_null(table[name]), f"{path} has no {name!r} in", way_out)
    return table


def _string(value: Any, name: str, path: Path, number: int) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return str(int(value)) if value == value // 1 else str(value)
    raise DataError(f"{path}, line {number}: {name!r} must be a string or number, not {value!r}.")


def string_list(value: Any, what: str, path: Path) -> list[str]:
    """Check that ``value`` is a list of strings; the message calls it ``what``."""
    if not fits(value, list[str]):
        raise DataError(f"{path}: {what} must be a list of strings, not {value!r:.60}.")
    return list(value)


def label_codes(table: pa.Table, column: str, classes: Sequence[str], ids: str, path: Path) -> Any:
    """Convert class names to class indices; null stays null. Errors name rows by column ``ids``."""
    codes = pc.index_in(table[column], pa.array(list(classes)))
    wrong = table.filter(pc.and_(pc.is_null(codes), pc.is_valid(table[column])))
    if wrong.num_rows:
        row = wrong.slice(0, 1).to_pylist()[0]
        raise DataError(
            f"{path}: {wrong.num_rows:,} of {len(table):,} rows have a {column} not in "
            f"{classes[:9]}, such as {row[column]!r} of {ids} {row[ids]!r}. Fetch it again."
        )
    return codes
