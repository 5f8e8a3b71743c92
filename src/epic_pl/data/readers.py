"""Strict readers of the JSON and JSON-lines files of datasets; their errors name file and line."""

import glob
import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.utils.errors import DataError
from epic_pl.utils.untrusted import require_regular
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


def read_json(path: Path, kind: type[dict[str, Any]] | type[list[Any]] = dict) -> Any:
    """Read a JSON file and check that its top level is a ``kind``."""
    try:
        require_regular(path)
        value = _parsed(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise DataError(f"{path} cannot be read as JSON: {error}. Fetch it again.") from error
    if not isinstance(value, kind):
        raise DataError(f"{path} must hold a JSON {kind.__name__}, not a {type(value).__name__}.")
    return value


def _parsed(text: str) -> Any:
    value = json.loads(text)
    if "\\ud" in text.lower():  # perhaps half of an emoji, which other formats cannot store
        json.dumps(value, ensure_ascii=False).encode()
    return value


def read_jsonl(path: Path, columns: Sequence[str]) -> pa.Table:
    """Read some columns of a JSON-lines file as strings, null if a row lacks the column."""
    values: dict[str, list[str | None]] = {name: [] for name in columns}
    for number, row in json_objects(path):
        for name, column in values.items():
            column.append(_string(row.get(name), name, path, number))
    table = pa.table({name: pa.array(column, pa.string()) for name, column in values.items()})
    if not table.num_rows:
        raise DataError(f"{path} holds no rows. Fetch it again.")
    return table


def json_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and object of each line of a JSON-lines file, also of a gzipped one."""
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


def require(table: pa.Table, columns: Sequence[str], path: Path) -> None:
    """Refuse a table if a row has no value in one of ``columns``."""
    for column in columns:
        if count := table[column].null_count:
            row = pc.index(pc.is_null(table[column]), True).as_py()
            raise DataError(
                f"{path}: {count} of {table.num_rows} rows have no {column!r}, the first is row "
                f"{row} (counting from 0). Fetch the dataset's own file."
            )


def label_codes(table: pa.Table, column: str, classes: Sequence[str], ids: str, path: Path) -> Any:
    """Convert class names to class indices; null stays null. Errors name rows by column ``ids``."""
    codes = pc.index_in(table[column], pa.array(list(classes)))
    wrong = pc.and_(pc.is_null(codes), pc.is_valid(table[column]))
    if count := pc.sum(wrong).as_py():
        row = pc.index(wrong, True).as_py()
        raise DataError(
            f"{path}: {count:,} of {len(table):,} rows have a {column} not in {classes[:9]}, such "
            f"as {table[column][row].as_py()!r} of {ids} {table[ids][row].as_py()!r}. Fetch it "
            "again."
        )
    return codes
