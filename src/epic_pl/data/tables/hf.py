"""Hugging Face datasets saved on disk."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from epic_pl.data.tables.labels import is_list

HF_SPLIT_COLUMN = "split"
"""The column that tells the splits of a ``DatasetDict`` apart."""


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder is what ``save_to_disk`` writes."""
    return (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file()


def read_saved_dataset(path: Path) -> pa.Table:
    """All splits of a dataset, memory-mapped; a ``DatasetDict`` gets :data:`HF_SPLIT_COLUMN`.

    Layout of ``save_to_disk``: Arrow streams named by state.json, splits by dataset_dict.json.
    Source: the documentation of Hugging Face ``datasets``, and what its version 5.2 writes.
    """
    if not (path / "dataset_dict.json").is_file():
        return _read_split(path)
    splits = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
    parts = []
    for split in splits:
        part = _read_split(path / split)
        if HF_SPLIT_COLUMN not in part.column_names:
            part = part.append_column(HF_SPLIT_COLUMN, pa.repeat(split, part.num_rows))
        parts.append(part)
    return pa.concat_tables(parts, promote_options="default")


def _read_split(path: Path) -> pa.Table:
    state = path / "state.json"
    if state.is_file():
        entries = json.loads(state.read_text(encoding="utf-8"))["_data_files"]
        files = [path / Path(entry["filename"]).name for entry in entries]
    else:
        files = sorted(path.glob("*.arrow"))
    tables = [pa.ipc.open_stream(pa.memory_map(str(file))).read_all() for file in files]
    table = pa.concat_tables(tables)
    info = json.loads((path / "dataset_info.json").read_text(encoding="utf-8"))
    return _with_class_names(table, info)


def read_hub_parquet(path: Path) -> pa.Table:
    """A Parquet file, with names for classes where its metadata has them.

    Its metadata may be older than its columns: those that are gone, or hold names by now, are
    passed over.
    """
    table = pyarrow.parquet.read_table(path)
    written = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    features = (written.get("info") or {}).get("features") or {}
    numbers = {f.name for f in table.schema if _holds_integers(f.type)}
    kept = {name: feature for name, feature in features.items() if name in numbers}
    return _with_class_names(table, {"features": kept})


def _holds_integers(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind.value_type if is_list(kind) else kind))


def _with_class_names(table: pa.Table, info: Any) -> pa.Table:
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
    column = _whole(table[name])
    if is_list(column.type):
        codes = column.flatten()
        if pa.types.is_nested(codes.type):  # lists of lists are no labels
            return table
        ends = np.cumsum(np.asarray(pc.fill_null(pc.list_value_length(column), 0)))
        offsets = pa.array(np.concatenate([[0], ends]), pa.int32())
        # a null list is unknown, an empty one is none of the classes
        absent = column.is_null()
        named = pa.ListArray.from_arrays(offsets, _take_names(names, codes, name), mask=absent)
    else:
        named = _take_names(names, column, name)
    return table.set_column(table.column_names.index(name), name, named)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array


def _take_names(names: pa.Array, codes: pa.Array, column: str) -> pa.Array:
    if not pa.types.is_integer(codes.type):
        raise ValueError(f"column {column!r} is a ClassLabel, but holds {codes.type}, not numbers")
    beyond = codes.filter(pc.greater_equal(codes, len(names)))
    if len(beyond):
        raise ValueError(
            f"column {column!r} holds class {beyond[0].as_py()}, but the dataset names "
            f"{len(names)} classes, which count from 0"
        )
    known = pc.greater_equal(codes, 0)
    return names.take(pc.if_else(known, codes, pa.scalar(None, codes.type)))
