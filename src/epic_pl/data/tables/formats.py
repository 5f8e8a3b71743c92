"""Reading of a user's table as Arrow: a file, class folders, or a saved Hugging Face dataset."""

import codecs
import csv
import json
import os
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from epic_pl.data.tables.columns import SPLIT_COLUMN, is_list
from epic_pl.data.tables.folders import read_class_folders, visible_files
from epic_pl.utils.errors import DataError, raised_as
from epic_pl.utils.files import json_objects, read_json
from epic_pl.utils.untrusted import (
    FORMULA,
    QUOTED,
    open_below,
    require_flat,
    require_regular,
    unquoted,
)

_CAPTIONS = ("metadata.csv", "metadata.jsonl", "captions.csv")
_MIXED = pa.struct([("mixed or too large values", pa.string())])
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


def source_files(path: Path) -> list[Path]:
    """The files of a table, or the folders of its images.

    Raises:
        DataError: if the path is no table.
    """
    if os.path.isdir(path):
        if is_saved_dataset(path):
            return sorted(path.rglob("*.arrow")) + sorted(path.rglob("*.json"))
        inner = (path / file for file in visible_files(path))
        return [path, *(file for file in inner if file.is_dir() or file.name in _CAPTIONS)]
    if not os.path.isfile(path):
        raise DataError(
            f"Table {path} does not exist, or is no regular file (paths start from {Path.cwd()})."
        )
    if path.suffix.lower() not in SUFFIXES:
        way_out = f"{', '.join(SUFFIXES)}. Save it as one of these: spreadsheets, as CSV (UTF-8)."
        raise DataError(f"Table {path} ends in {path.suffix!r}, not in {way_out}")
    return [path]


def read_table(path: Path) -> pa.Table:
    """Read all columns of a table; CSV cells are strings, empty ones null."""
    source_files(path)
    with raised_as(DataError, f"Table {path} cannot be read", "Correct it, or write it again."):
        table = _read(path)
    if not table.num_rows:
        raise DataError(f"Table {path} has no rows. Check that it was exported whole.")
    return table


def _read(path: Path) -> pa.Table:
    if os.path.isdir(path):
        if is_saved_dataset(path):
            return _read_saved_dataset(path)
        return read_class_folders(path, read_captions(path))
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _read_parquet(path)
    if suffix in (".csv", ".tsv"):
        table = read_csv(path)
        cells = [pc.if_else(pc.equal(column, ""), None, column) for column in table.columns]
        return pa.table(cells, table.column_names)
    with path.open("rb") as file:
        is_list = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    return _of_objects(enumerate(read_json(path, list)) if is_list else json_objects(path), is_list)


def read_captions(path: Path) -> dict[str, str | None]:
    """Texts of images below a folder by relative path, from its metadata and captions files.

    Each has a column ``file_name``, as for Hugging Face ``datasets``, and the texts in ``text``,
    ``caption`` or its only other column.

    Raises:
        DataError: if a file cannot be read, or has other columns.
    """
    captions: dict[str, str | None] = {}
    for file in (file for file in visible_files(path) if file.name in _CAPTIONS):
        problem = f"The captions {path / file} cannot be read"
        with raised_as(DataError, problem, "Copy what a link leads to."):
            open_below(path.resolve(), file).close()
        table = read_table(path / file)
        others = [name for name in table.column_names if name != "file_name"]
        texts = [name for name in others if name.lower() in ("text", "caption")] or others
        if len(texts) != 1 or len(others) == table.num_columns:
            raise DataError(
                f"{path / file} has {table.column_names}, but needs file_name and text."
            )
        names, cells = (table[key].to_pylist() for key in ("file_name", *texts))
        for name, text in zip(names, cells, strict=True):
            captions[(file.parent / str(name)).as_posix()] = text
    return captions


def read_csv(path: Path, names: Sequence[str] | None = None) -> pa.Table:
    """A CSV or TSV file as a table of strings.

    Quoted cells may hold line breaks. UTF-8 and UTF-16 are read, with or without a byte order mark.
    The apostrophe before a cell that a spreadsheet would run is removed.

    Args:
        path: the file.
        names: columns of a file without a header, whose delimiter is the comma. None reads the
            header, the first line that is not blank; the delimiter is its most frequent of comma,
            semicolon, tab and bar.
    """
    csv.field_size_limit(2**31 - 1)
    rows: list[list[str]] = []
    line = 1  # line at which the next row begins
    with path.open(encoding=_encoding(path), newline="") as file:
        try:
            delimiter = _delimiter(path, file) if names is None else ","
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            for row in reader:
                if names is None:
                    names = [unquoted(name) for name in row] if any(map(str.strip, row)) else None
                elif row and len(row) != len(names):
                    raise csv.Error(f"{len(row)} cells, not {len(names)}")
                elif row:
                    rows.append(row)
                line = reader.line_num + 1
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path} is not UTF-8, at line {line} or soon after: {error}. Export it again as "
                f"UTF-8, or convert it: iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8.csv"
            ) from error
        except csv.Error as error:
            raise DataError(
                f"{path}, row at line {line}: {error}. A cell with a {delimiter!r}, quote or line "
                'break stands in double quotes, with quotes in it doubled: """Open"", he said".'
            ) from error
    if not names:
        raise DataError(f"{path} is empty. Check that it was exported whole.")
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path} has several columns named {doubled[0]!r}. Rename them.")
    columns = zip(*rows, strict=True) if rows else ((),) * len(names)
    cells = [pa.array(column, pa.string()) for column in columns]
    cells = [pc.replace_substring_regex(column, QUOTED, r"\1") for column in cells]
    return pa.table(cells, list(names))


def write_csv(table: pa.Table, path: Path, like: Path | None, mark: bool = False) -> None:
    """Write a table with the delimiter and byte order mark of the CSV file ``like``, if given.

    Else ``mark`` says whether there is a byte order mark, without which Excel garbles umlauts.
    Texts that a spreadsheet would run get an apostrophe, which :func:`read_csv` removes.
    """
    for name in (field.name for field in table.schema if pa.types.is_string(field.type)):
        safe = pc.replace_substring_regex(table[name], FORMULA, r"'\1")
        table = table.set_column(table.column_names.index(name), name, safe)
    delimiter = ","
    if like is not None and like.suffix.lower() == ".csv" and like.is_file():
        encoding = _encoding(like)
        mark = encoding != "utf-8"
        with like.open(encoding=encoding) as file:
            delimiter = _delimiter(like, file)
    with path.open("wb") as file:
        file.write(codecs.BOM_UTF8 if mark else b"")
        pyarrow.csv.write_csv(table, file, pyarrow.csv.WriteOptions(delimiter=delimiter))


def _encoding(path: Path) -> str:
    """The encoding of a text file by its byte order mark, or by the NULs of UTF-16."""
    with path.open("rb") as file:
        start = file.read(3)
    if b"\0" in start[:2]:
        return "utf-16-be" if start[0] == 0 else "utf-16-le"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig" if start == codecs.BOM_UTF8 else "utf-8"


def _delimiter(path: Path, lines: Iterable[str]) -> str:
    """The delimiter that is most frequent in the first line with text, outside of quotes."""
    plain = re.sub('"[^"]*"', "", next((line for line in lines if line.strip()), ""))
    return max("\t,;|" if path.suffix.lower() == ".tsv" else ",;\t|", key=plain.count)


def _of_objects(rows: Iterable[tuple[int, Any]], is_list: bool) -> pa.Table:
    objects: list[dict[str, Any]] = []
    for number, row in rows:
        place = f"row {number} (counting from 0)" if is_list else f"line {number}"
        if not isinstance(row, dict):
            raise ValueError(f"{place} is no object, but {row!r:.60}")
        try:
            require_flat(row)  # Arrow would overflow the stack
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
        objects.append(row)
    columns: dict[str, pa.Array] = {}
    for name in dict.fromkeys(chain.from_iterable(objects)):
        try:
            columns[name] = pa.array([row.get(name) for row in objects])
        except (pa.ArrowException, OverflowError):  # refused only if a role names it
            columns[name] = pa.nulls(len(objects), _MIXED)
    return pa.table(columns)


def is_saved_dataset(path: Path) -> bool:
    """Whether ``save_to_disk`` of Hugging Face ``datasets`` wrote a folder."""
    return (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file()


def is_image_folder(path: Path) -> bool:
    """Whether a path to predict is a folder of images, not a table or a saved dataset."""
    return os.path.isdir(path) and not is_saved_dataset(path)


def _read_saved_dataset(path: Path) -> pa.Table:
    """Read all splits of a dataset as a memory map; a ``DatasetDict`` has a column of splits.

    ``save_to_disk`` writes Arrow streams, which state.json lists; dataset_dict.json lists the
    splits (Hugging Face ``datasets``, version 5.2).
    """
    if not (path / "dataset_dict.json").is_file():
        return _read_split(path)
    parts = []
    for split in read_json(path / "dataset_dict.json")["splits"]:
        part = _read_split(path / Path(split).name)
        if SPLIT_COLUMN not in part.column_names:
            part = part.append_column(SPLIT_COLUMN, pa.repeat(split, part.num_rows))
        parts.append(part)
    return pa.concat_tables(parts, promote_options="default")


def _read_split(path: Path) -> pa.Table:
    files = sorted(path.glob("*.arrow"))
    if (path / "state.json").is_file():
        entries = read_json(path / "state.json")["_data_files"]
        files = [path / Path(entry["filename"]).name for entry in entries]
    for file in files:
        require_regular(file)
    tables = [pa.ipc.open_stream(pa.memory_map(str(file))).read_all() for file in files]
    table = pa.concat_tables(tables)
    table.validate(full=True)
    return _with_class_names(table, read_json(path / "dataset_info.json"))


def _read_parquet(path: Path) -> pa.Table:
    """Read a Parquet file, with class names if its metadata has them."""
    table = pyarrow.parquet.read_table(path)
    table.validate(full=True)  # else text that is not UTF-8 would fail much later
    written = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    return _with_class_names(table, written.get("info") or {})


def _with_class_names(table: pa.Table, info: Any) -> pa.Table:
    """Replace numbers by class names in ``ClassLabel`` columns and lists; -1 is unknown.

    Metadata may be older than the columns, so they may be missing or hold no numbers.
    """
    for name, feature in (info.get("features") or {}).items():
        inner = feature
        while isinstance(inner, dict) and inner.get("_type") in ("Sequence", "List", "LargeList"):
            inner = inner["feature"]
        inner = inner[0] if isinstance(inner, list) else inner
        is_class = isinstance(inner, dict) and inner.get("_type") == "ClassLabel"
        if is_class and name in table.column_names:
            table = _named_classes(table, name, inner["names"])
    return table


def _named_classes(table: pa.Table, name: str, names: list[str]) -> pa.Table:
    of_lists = is_list(table[name].type)
    if not pa.types.is_integer(table[name].type.value_type if of_lists else table[name].type):
        return table

    def named(cell: Any) -> Any:
        if isinstance(cell, list):  # an empty list means no class, a null one is unknown
            return [named(code) for code in cell]
        if cell is not None and cell >= len(names):
            raise ValueError(f"column {name!r} holds class {cell}, but {len(names)} are named")
        return None if cell is None or cell < 0 else names[cell]

    kind = pa.list_(pa.string()) if of_lists else pa.string()
    values = pa.array([named(cell) for cell in table[name].to_pylist()], kind)
    return table.set_column(table.column_names.index(name), name, values)
