"""Hugging Face datasets saved on disk, and Parquet files of its hub."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from epic_pl.data.tables.labels import is_list

HF_SPLIT_COLUMN = "split"
"""The column that names the splits of a ``DatasetDict``."""


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
    parts = []
    for split in _json(path / "dataset_dict.json")["splits"]:
        part = _read_split(path / split)
        if HF_SPLIT_COLUMN not in part.column_names:
            part = part.append_column(HF_SPLIT_COLUMN, pa.repeat(split, part.num_rows))
        parts.append(part)
    return pa.concat_tables(parts, promote_options="default")


def _read_split(path: Path) -> pa.Table:
    files = sorted(path.glob("*.arrow"))
    if (path / "state.json").is_file():
        entries = _json(path / "state.json")["_data_files"]
        files = [path / Path(entry["filename"]).name for entry in entries]
    tables = [pa.ipc.open_stream(pa.memory_map(str(file))).read_all() for file in files]
    return _with_class_names(pa.concat_tables(tables), _json(path / "dataset_info.json"))


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_hub_parquet(path: Path) -> pa.Table:
    """A Parquet file, with names for classes where its metadata has them.

    Its metadata may be older than its columns: those that are gone, or hold names by now, are
    passed over.
    """
    table = pyarrow.parquet.read_table(path)
    written = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    features = (written.get("info") or {}).get("features") or {}
    kinds = {f.name: f.type.value_type if is_list(f.type) else f.type for f in table.schema}
    numbers = {name for name, kind in kinds.items() if pa.types.is_integer(kind)}
    kept = {name: feature for name, feature in features.items() if name in numbers}
    return _with_class_names(table, {"features": kept})


def _with_class_names(table: pa.Table, info: Any) -> pa.Table:
    """``ClassLabel`` columns, or lists of them, as names instead of numbers (-1 is unknown)."""
    for name, feature in (info.get("features") or {}).items():
        inner = feature
        while isinstance(inner, dict) and inner.get("_type") in ("Sequence", "List", "LargeList"):
            inner = inner["feature"]
        inner = inner[0] if isinstance(inner, list) else inner
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel":
            table = _named_classes(table, name, inner["names"])
    return table


def _named_classes(table: pa.Table, name: str, names: list[str]) -> pa.Table:
    of_lists = is_list(table[name].type)
    kind = table[name].type.value_type if of_lists else table[name].type
    if pa.types.is_nested(kind):  # lists of lists are no labels
        return table
    if not pa.types.is_integer(kind):
        raise ValueError(f"column {name!r} is a ClassLabel, but holds {kind}, not numbers")

    def named(code: int | None) -> str | None:
        if code is not None and code >= len(names):
            raise ValueError(
                f"column {name!r} holds class {code}, but the dataset names {len(names)} classes, "
                "which count from 0"
            )
        return None if code is None or code < 0 else names[code]

    cells = table[name].to_pylist()
    if of_lists:  # a null list is unknown, an empty one is none of the classes
        values = pa.array(
            [cell and list(map(named, cell)) for cell in cells], pa.list_(pa.string())
        )
    else:
        values = pa.array(map(named, cells), pa.string())
    return table.set_column(table.column_names.index(name), name, values)
