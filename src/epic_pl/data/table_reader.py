"""Anyone's table as Arrow: CSV, TSV, JSONL, JSON, Parquet, or a Hugging Face dataset on disk."""

import codecs
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.json
import pyarrow.parquet

from epic_pl.data.table_csv import read_csv
from epic_pl.errors import DataError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
HF_SPLIT_COLUMN = "split"
"""The column that tells the splits of a Hugging Face ``DatasetDict`` apart."""
# a row must fit into a block: large enough for a page of text in every cell
_BLOCK = 16 << 20
_BOMS = {codecs.BOM_UTF16_LE: "UTF-16LE", codecs.BOM_UTF16_BE: "UTF-16BE"}


def source_files(path: Path) -> list[Path]:
    """The files that a table is read from, sorted.

    Raises:
        DataError: there is nothing there, or nothing that is a table.
    """
    if path.is_dir():
        files = sorted(path.rglob("*.arrow")) + sorted(path.rglob("*.json"))
        if not _is_hf(path):
            raise DataError(
                f"{path} is a folder, and no Hugging Face dataset saved with save_to_disk (those "
                f"hold dataset_info.json or dataset_dict.json). Name the table in it: a "
                f"{', '.join(SUFFIXES)} file."
            )
        return files
    if not path.is_file():
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
    with a byte order mark, and separate by semicolon or tab where the header has no comma.

    Raises:
        DataError: missing, empty, not UTF-8, or not what its suffix says.
    """
    source_files(path)
    try:
        table = _read(path)
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
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
        return _read_hf(path)
    if path.suffix.lower() == ".parquet":
        return pyarrow.parquet.read_table(path)
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
            rows = pa.array(json.loads(path.read_text(encoding="utf-8-sig")))
            return pa.Table.from_struct_array(rows)
    table = _read_json_lines(path, skip)
    dates = [field.name for field in table.schema if pa.types.is_timestamp(field.type)]
    if dates:  # "2020-01-01" is text here, to be kept letter by letter
        table = _read_json_lines(path, skip, pa.schema([(name, pa.string()) for name in dates]))
    return table


def _read_json_lines(path: Path, skip: int, schema: pa.Schema | None = None) -> pa.Table:
    options = pyarrow.json.ParseOptions(explicit_schema=schema)
    with path.open("rb") as file:
        file.seek(skip)
        return pyarrow.json.read_json(file, pyarrow.json.ReadOptions(block_size=_BLOCK), options)


def _is_hf(path: Path) -> bool:
    return (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file()


def _read_hf(path: Path) -> pa.Table:
    """Layout of ``save_to_disk``: Arrow streams named by state.json, splits by dataset_dict.json.

    Source: the documentation of Hugging Face ``datasets``.
    """
    if not (path / "dataset_dict.json").is_file():
        return _read_hf_split(path)
    splits = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
    parts = []
    for split in splits:
        part = _read_hf_split(path / split)
        if HF_SPLIT_COLUMN not in part.column_names:
            part = part.append_column(HF_SPLIT_COLUMN, pa.repeat(split, part.num_rows))
        parts.append(part)
    return pa.concat_tables(parts, promote_options="default")


def _read_hf_split(path: Path) -> pa.Table:
    state = path / "state.json"
    if state.is_file():
        entries = json.loads(state.read_text(encoding="utf-8"))["_data_files"]
        files = [path / Path(entry["filename"]).name for entry in entries]
    else:
        files = sorted(path.glob("*.arrow"))
    tables = [pa.ipc.open_stream(pa.memory_map(str(file))).read_all() for file in files]
    table = pa.concat_tables(tables)
    info = json.loads((path / "dataset_info.json").read_text(encoding="utf-8"))
    for name, feature in (info.get("features") or {}).items():
        table = _named_classes(table, name, feature)
    return table


def _named_classes(table: pa.Table, name: str, feature: Any) -> pa.Table:
    """A ``ClassLabel`` column, or a list of them, as names instead of numbers (-1 is unknown)."""
    inner = feature
    while isinstance(inner, dict) and inner.get("_type") in ("Sequence", "List", "LargeList"):
        inner = inner["feature"]
    inner = inner[0] if isinstance(inner, list) else inner
    if not isinstance(inner, dict) or inner.get("_type") != "ClassLabel":
        return table
    names = pa.array(inner["names"], pa.string())
    column = table[name].combine_chunks()
    if pa.types.is_list(column.type):
        values = _take_names(names, column.flatten())
        offsets = pa.array([0, *pa.compute.cumulative_sum(_lengths(column)).to_pylist()])
        named = pa.ListArray.from_arrays(offsets.cast(pa.int32()), values)
    else:
        named = _take_names(names, column)
    return table.set_column(table.column_names.index(name), name, named)


def _lengths(column: pa.Array) -> pa.Array:
    return pa.compute.fill_null(pa.compute.list_value_length(column), 0)


def _take_names(names: pa.Array, codes: pa.Array) -> pa.Array:
    known = pa.compute.greater_equal(codes, 0)
    return names.take(pa.compute.if_else(known, codes, pa.scalar(None, codes.type)))
