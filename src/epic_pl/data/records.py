"""Annotation files as people have them: JSON, JSON lines, CSV without a header."""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json

from epic_pl.errors import DataError

# \\ud83d and the like: one of the two halves that JSON writes an emoji as
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_BLOCK = 16 << 20  # bytes; a line must fit into one


def read_json(path: Path, kind: type[dict[str, Any]] | type[list[Any]] = dict) -> Any:
    """A JSON file whose top level is a ``kind``.

    Raises:
        DataError: it is not, or is no UTF-8.
    """
    try:
        value = _parsed(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise DataError(f"{path} cannot be read as JSON: {error}. Fetch it again.") from error
    if not isinstance(value, kind):
        raise DataError(
            f"{path} must hold a JSON {'object' if kind is dict else 'array'} at its top level, "
            f"but holds a {type(value).__name__}. Fetch the dataset's own file."
        )
    return value


def _parsed(text: str) -> Any:
    """JSON whose strings are characters all through.

    Raises:
        ValueError: it is not, or holds half of a character, as a text cut by its bytes does.
    """
    value = json.loads(text)
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise ValueError(
                f"it holds half of a character ({half!r}) without the other"
            ) from error
    return value


def string_list(value: Any, what: str, path: Path) -> list[str]:
    """A list of strings out of a JSON file, looked at.

    Args:
        value: as read.
        what: its name, for the message.
        path: the file.

    Raises:
        DataError: it is no list, or one of its items is no string.
    """
    is_list = isinstance(value, list)
    wrong = [each for each in value if not isinstance(each, str)] if is_list else [value]
    if wrong:
        raise DataError(
            f"{path}: {what} must be a list of strings, but there is {wrong[0]!r:.60}. Correct "
            "it, or fetch the file again."
        )
    return list(value)


def read_jsonl(path: Path, columns: Sequence[str]) -> pa.Table:
    """Columns of a JSON-lines file as strings, null where a row lacks one; others are not kept.

    Arrow reads half a million rows in a second; what it refuses (numbers for strings, a byte-order
    mark) is read line by line instead, and that way finds the line to blame.

    Raises:
        DataError: a line is no JSON object or no UTF-8, or there are no rows.
    """
    schema = pa.schema([(name, pa.string()) for name in columns])
    try:
        table = pa.json.read_json(
            path,
            pa.json.ReadOptions(block_size=_BLOCK),
            pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
        table.validate(full=True)  # Arrow's parser lets bad UTF-8 pass
        return table.select(list(columns))
    except pa.ArrowInvalid:
        rows = list(_lines(path, columns))
    if not rows:
        raise DataError(f"{path} holds no rows. Fetch it again.")
    return pa.Table.from_pylist(rows, schema=schema)


def _lines(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str | None]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                row = _parsed(line) if line else None
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{path}, line {number} is no JSON: {error}. Mend the line, or fetch the file "
                    "again."
                ) from error
            if row is None and not line:
                continue
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number} must be a JSON object, but is {line[:60]}.")
            yield {name: _string(row.get(name), name, path, number) for name in columns}


def _string(value: Any, name: str, path: Path, number: int) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return str(int(value)) if value == value // 1 else str(value)
    raise DataError(
        f"{path}, line {number}: {name!r} must be a string or a number, but is {value!r}."
    )


def require(table: pa.Table, column: str, path: Path) -> None:
    """Look whether every row has a value.

    Raises:
        DataError: naming the first row that has none.
    """
    if table[column].null_count:
        row = table[column].is_null().to_pylist().index(True)
        raise DataError(
            f"{path}: {table[column].null_count} of {table.num_rows} rows have no {column!r}, the "
            f"first is row {row} (counting from 0). Fetch the dataset's own file."
        )


def read_csv(path: Path, width: int) -> Iterator[list[str]]:
    """Rows of a CSV file without a header; quotes may hold commas and line breaks.

    Raises:
        DataError: a row does not have ``width`` columns, or the file is no UTF-8 or no CSV.
    """
    # strict decoding would fail on a whole buffer of lines, too early to say which one
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            for row in reader:
                if not row:
                    continue
                if len(row) != width:
                    raise DataError(
                        f"{path}, line {reader.line_num} has {len(row)} columns, not {width}: "
                        f"{row!r:.120}. A text that holds a comma must stand in double quotes."
                    )
                "".join(row).encode()
                yield row
        except (csv.Error, UnicodeEncodeError) as error:
            found = "not UTF-8" if isinstance(error, UnicodeEncodeError) else str(error)
            raise DataError(
                f"{path}, line {reader.line_num}: {found}. Save it as UTF-8 CSV, or fetch it again."
            ) from error
