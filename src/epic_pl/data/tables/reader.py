"""Anyone's table as Arrow: CSV, TSV, JSONL, JSON, Parquet, or a Hugging Face dataset on disk."""

import codecs
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json

from epic_pl.data.tables.csv_reader import read_csv
from epic_pl.data.tables.hf import is_saved_dataset, read_hub_parquet, read_saved_dataset
from epic_pl.errors import DataError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
# a row must fit into a block: large enough for a page of text in every cell
_BLOCK = 16 << 20
# what readers raise on files that are not what they should be
_MALFORMED = (
    pa.ArrowException,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)
_BOMS = {codecs.BOM_UTF16_LE: "UTF-16LE", codecs.BOM_UTF16_BE: "UTF-16BE"}


def source_files(path: Path) -> list[Path]:
    """The files that a table is read from, sorted.

    Raises:
        DataError: there is nothing there, or nothing that is a table.
    """
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:  # a folder that may not be looked into, a name that is too long
        raise DataError(
            f"Table {path} cannot be looked at: {error.strerror}. Give the path of a table that "
            "you may read as data.init_args.table."
        ) from error
    if is_folder:
        files = sorted(path.rglob("*.arrow")) + sorted(path.rglob("*.json"))
        if not is_saved_dataset(path):
            raise DataError(
                f"{path} is a folder, and no Hugging Face dataset saved with save_to_disk (those "
                f"hold dataset_info.json or dataset_dict.json). Name the table in it: a "
                f"{', '.join(SUFFIXES)} file."
            )
        return files
    if not is_file:
        raise DataError(
            f"Table {path} does not exist (looked from {Path.cwd()}). Give its path as "
            "data.init_args.table."
        )
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"Table {path} ends in {path.suffix!r}; {', '.join(SUFFIXES)} can be read. Export it "
            "in one of these."
        )
    return [path]


def read_table(path: Path) -> pa.Table:
    """Read a table with the columns that it has; an empty CSV cell is null.

    CSV cells stay strings, so that ``007`` is not 7. CSV and TSV may hold quoted line breaks, begin
    with a byte order mark, and separate by whatever separates most cells of the header: comma,
    semicolon, tab or bar.

    Raises:
        DataError: missing, empty, not UTF-8, or not what its suffix says.
    """
    source_files(path)
    try:
        table = _read(path)
    except OSError as error:
        raise DataError(
            f"Table {path} cannot be read: {error}. Check that you may read it, "
            "or copy it here again."
        ) from error
    except _MALFORMED as error:
        if path.suffix.lower() in (".csv", ".tsv"):
            _check_encoding(path)
        raise DataError(f"Table {path} cannot be read: {error}. {_hint(path)}") from error
    doubled = [name for name, count in Counter(table.column_names).items() if count > 1]
    if doubled:
        raise DataError(f"Table {path} has several columns named {doubled[0]!r}. Rename them.")
    if not table.num_rows:
        raise DataError(f"Table {path} has no rows. Check that it was exported whole.")
    return table


def _read(path: Path) -> pa.Table:
    if path.is_dir():
        return read_saved_dataset(path)
    if path.suffix.lower() == ".parquet":
        return read_hub_parquet(path)
    if not path.stat().st_size:
        raise ValueError("the file is empty (0 bytes)")
    if path.suffix.lower() in (".csv", ".tsv"):
        return read_csv(path)
    return _read_json(path)


def _hint(path: Path) -> str:
    quoting = (
        "or line break must stand in quotes, and the quotes within it be doubled, as Python's csv "
        'and pandas write it: """Open"", he said".'
    )
    return {
        ".csv": f"A cell with a comma, quote {quoting}",
        ".tsv": f"A cell with a tab, quote {quoting}",
        ".jsonl": "Each line must be one JSON object, and a key of one type in all of them.",
        ".json": "It must be a list of objects, or one object a line.",
    }.get(path.suffix.lower(), "Write it again.")


def _check_encoding(path: Path) -> None:
    """Raise if a text file is not UTF-8, saying where and how to convert it."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    encoding, line = "WINDOWS-1252", 1
    try:
        with path.open("rb") as file:
            for raw in file:
                encoding = _BOMS.get(raw[:2], encoding) if line == 1 else encoding
                decoder.decode(raw)
                line += 1
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise DataError(
            f"Table {path} is not UTF-8: line {line} cannot be decoded. Convert it, for example "
            f"with: iconv -f {encoding} -t UTF-8 {path.name} > {path.stem}-utf8{path.suffix} "
            "(if that is what it was written in), or export it again as UTF-8."
        ) from None


def _read_json(path: Path) -> pa.Table:
    _check_encoding(path)  # Arrow does so for CSV only
    with path.open("rb") as file:
        skip = len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else 0
        file.seek(skip)
        if file.read(64).lstrip().startswith(b"["):
            return _read_json_list(path)
    table = _read_json_lines(path, skip)
    dates = [field.name for field in table.schema if pa.types.is_timestamp(field.type)]
    if dates:  # "2020-01-01" is text here, to be kept letter by letter
        table = _read_json_lines(path, skip, pa.schema([(name, pa.string()) for name in dates]))
    return table


def _read_json_list(path: Path) -> pa.Table:
    rows = json.loads(path.read_text(encoding="utf-8-sig"))
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"item {number} (counting from 0) is no object, but {row!r:.60}")
    try:
        return pa.Table.from_struct_array(pa.array(rows)) if rows else pa.table({})
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise ValueError(_mixed_key(rows) or error) from error


def _mixed_key(rows: list[dict[str, Any]]) -> str:
    """The key that has values of several types, with a row of each; empty where there is none."""
    for key in dict.fromkeys(key for row in rows for key in row):
        first: dict[str, int] = {}
        for number, row in enumerate(rows):
            if (value := row.get(key)) is not None:
                first.setdefault(type(value).__name__, number)
        if len(first) > 1 and set(first) != {"int", "float"}:
            named = " and ".join(f"{kind} in item {number}" for kind, number in first.items())
            return f"key {key!r} is {named} (counting from 0), and must be of one type"
    return ""


def _read_json_lines(path: Path, skip: int, schema: pa.Schema | None = None) -> pa.Table:
    options = pyarrow.json.ParseOptions(explicit_schema=schema)
    with path.open("rb") as file:
        file.seek(skip)
        return pyarrow.json.read_json(file, pyarrow.json.ReadOptions(block_size=_BLOCK), options)
