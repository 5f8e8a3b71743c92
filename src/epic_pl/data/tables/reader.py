"""Reading of a user's table as Arrow: a file, class folders, or a saved Hugging Face dataset."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.data.readers import json_objects, read_csv, read_json
from epic_pl.data.tables.folders import read_class_folders
from epic_pl.data.tables.hf import is_saved_dataset, read_hub_parquet, read_saved_dataset
from epic_pl.utils.errors import DataError
from epic_pl.utils.untrusted import require_flat

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


def source_files(path: Path) -> list[Path]:
    """The files of a table, or the folders of its images.

    Raises:
        DataError: if the path is no table.
    """
    if os.path.isdir(path):
        if is_saved_dataset(path):
            return sorted(path.rglob("*.arrow")) + sorted(path.rglob("*.json"))
        return [path, *(folder for folder in sorted(path.rglob("*")) if folder.is_dir())]
    if not os.path.isfile(path):
        raise DataError(
            f"Table {path} does not exist, or is no regular file (relative "
            f"paths start from {Path.cwd()}). Give its path as data.init_args.table."
        )
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"Table {path} ends in {path.suffix!r}; {', '.join(SUFFIXES)} can be read. Export it "
            "in one of these."
        )
    return [path]


def read_table(path: Path) -> pa.Table:
    """Read all columns of a table; CSV cells are strings, empty ones null."""
    source_files(path)
    try:
        table = _read(path)
    except DataError:
        raise
    except Exception as error:  # a damaged file may cause any of them
        raise DataError(
            f"Table {path} cannot be read: {error}. Check its permissions, or write it again."
        ) from error
    if not table.num_rows:
        raise DataError(f"Table {path} has no rows. Check that it was exported whole.")
    return table


def _read(path: Path) -> pa.Table:
    if os.path.isdir(path):
        return read_saved_dataset(path) if is_saved_dataset(path) else read_class_folders(path)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return read_hub_parquet(path)
    if suffix in (".csv", ".tsv"):
        table = read_csv(path)
        cells = [pc.if_else(pc.equal(column, ""), None, column) for column in table.columns]
        return pa.table(cells, table.column_names)
    with path.open("rb") as file:
        is_list = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    return _of_objects(enumerate(read_json(path, list)) if is_list else json_objects(path), is_list)


def _of_objects(rows: Iterable[tuple[int, Any]], is_list: bool) -> pa.Table:
    columns: dict[str, list[Any]] = {}
    count = 0
    for number, row in rows:
        place = f"item {number} (counting from 0)" if is_list else f"line {number}"
        if not isinstance(row, dict):
            raise ValueError(f"{place} is no object, but {row!r:.60}")
        try:
            require_flat(row)  # Arrow would overflow the stack
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        for name, value in row.items():
            column = columns.setdefault(name, [])
            column.extend([None] * (count - len(column)))
            column.append(value)
        count += 1
    arrays: dict[str, pa.Array] = {}
    for name, column in columns.items():
        try:
            arrays[name] = pa.array(column + [None] * (count - len(column)))
        except (pa.ArrowException, OverflowError) as error:
            raise ValueError(f"key {name!r} must be of one type: {error}") from error
    return pa.table(arrays)
