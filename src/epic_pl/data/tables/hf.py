"""Reading of saved Hugging Face datasets, and of Parquet files from its hub."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from epic_pl.data.readers import read_json
from epic_pl.data.tables.columns import is_list
from epic_pl.utils.untrusted import require_regular

HF_SPLIT_COLUMN = "split"
"""The column that names the splits of a ``DatasetDict``."""


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder was written by ``save_to_disk``."""
    return (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file()


def read_saved_dataset(path: Path) -> pa.Table:
    """Read all splits of a dataset as a memory map; a ``DatasetDict`` has a column of splits.

    This column is :data:`HF_SPLIT_COLUMN`. ``save_to_disk`` writes Arrow streams, which state.json
    lists; dataset_dict.json lists the splits (Hugging Face ``datasets``, version 5.2).
    """
    if not (path / "dataset_dict.json").is_file():
        return _read_split(path)
    parts = []
    for split in read_json(path / "dataset_dict.json")["splits"]:
        part = _read_split(path / Path(split).name)
        if HF_SPLIT_COLUMN not in part.column_names:
            part = part.append_column(HF_SPLIT_COLUMN, pa.repeat(split, part.num_rows))
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


def read_hub_parquet(path: Path) -> pa.Table:
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

    def named(code: int | None) -> str | None:
        if code is not None and code >= len(names):
            raise ValueError(f"column {name!r} holds class {code}, but {len(names)} are named")
        return None if code is None or code < 0 else names[code]

    cells = table[name].to_pylist()
    if of_lists:  # a null list is unknown, an empty one means no class
        cells = [cell and [named(code) for code in cell] for cell in cells]
    else:
        cells = [named(code) for code in cells]
    values = pa.array(cells, pa.list_(pa.string()) if of_lists else pa.string())
    return table.set_column(table.column_names.index(name), name, values)
