"""The label column of a user's table as class indices, or errors that name rows."""

import ast
import json
import re
from collections.abc import Sequence
from types import NoneType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.data.rows import true_rows
from epic_pl.data.tables.columns import column, strings
from epic_pl.errors import ConfigError, DataError

_SHOWN = 5
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_WHOLE = r"^-?[0-9]+(\.0+)?$"
# numpy writes no commas, and Python would join the strings
_WITHOUT_COMMA = re.compile(r"""['"]\s+['"]""")


def is_list(kind: pa.DataType) -> bool:
    """Whether cells are lists, of any of Arrow's layouts."""
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def written_lists(cells: Any) -> pa.Array | None:
    """Lists that strings spell out, such as ``["red", "round"]``, as JSON or Python write them.

    None where not all cells stand in brackets, or none is a list.
    """
    if not (pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type)):
        return None
    written = [cell and cell.strip() for cell in cells.to_pylist()]
    filled = [cell for cell in written if cell]
    if not filled or not all(cell[0] == "[" and cell[-1] == "]" for cell in filled):
        return None
    lists = [_list(cell) if cell else None for cell in written]
    broken = [row for row, cell in enumerate(written) if cell and lists[row] is None]
    if len(broken) == len(filled):
        return None  # classes that stand in brackets
    if broken:
        raise DataError(
            f"Labels are lists, but {written[broken[0]]!r} cannot be read as one (row {broken[0]}; "
            f'{len(broken):,} such). Write ["red", "round"], or red|round with label_separator.'
        )
    return pa.array(lists, pa.list_(pa.string()))


def _list(cell: str) -> list[str] | None:
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        try:
            found = None if _WITHOUT_COMMA.search(cell) else ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    if not isinstance(found, list) or any(isinstance(x, list | dict | NoneType) for x in found):
        return None
    return [str(name) for name in found]


def label_column(table: pa.Table, name: str, separator: str | None) -> pa.Array:
    """Labels as strings, or lists of strings where the task is multilabel; null where unknown.

    With a separator, a cell without a class is null, too; see :func:`none_where_null`.
    """
    cells = column(table, name, "label_column")
    written = written_lists(cells)
    cells = cells if written is None else written
    if is_list(cells.type):
        if separator is not None:
            raise ConfigError(f"Column {name!r} holds lists: leave label_separator out.")
        parents = pc.list_parent_indices(cells).to_numpy()
        values = _class_strings(pc.list_flatten(cells), name, parents)
        if values.null_count:
            raise DataError(
                f"A label list of column {name!r} holds a null "
                f"(row {parents[true_rows(values.is_null())[0]]}). Take it out, or make the "
                " whole list null where labels are unknown."
            )
        return _lists(values, parents, len(cells), np.asarray(pc.is_null(cells)))
    if separator is None:
        return _class_strings(cells, name, np.arange(len(cells)))
    if not separator:
        raise ConfigError("label_separator is empty; give a string such as '|', or leave it out.")
    split = pc.split_pattern(pc.fill_null(strings(cells, name), ""), separator)
    values = pc.utf8_trim_whitespace(pc.list_flatten(split))
    keep = pc.not_equal(values, "")
    parents = pc.list_parent_indices(split).filter(keep).to_numpy()
    values = _class_strings(values.filter(keep), name, parents)
    return _lists(values, parents, len(cells), ~np.isin(np.arange(len(cells)), parents))


def none_where_null(labels: pa.Array, rows: npt.NDArray[np.bool_]) -> pa.Array:
    """Lists of labels, empty ones in place of null for some rows: no class applies to them."""
    parents = pc.list_parent_indices(labels).to_numpy()
    absent = np.asarray(pc.is_null(labels)) & ~rows
    return _lists(pc.list_flatten(labels), parents, len(labels), absent)


def _lists(values: pa.Array, parents: Any, rows: int, absent: Any) -> pa.Array:
    counts = np.bincount(parents.astype(np.int64), minlength=rows)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    return pa.ListArray.from_arrays(offsets, values, mask=pa.array(absent))


def _class_strings(values: pa.Array, name: str, rows: npt.NDArray[Any]) -> pa.Array:
    """Class names as strings; ``rows`` holds the row of each value."""

    def refuse(mask: Any, why: str) -> None:
        at = true_rows(mask)
        if at.size:
            where = ", ".join(str(row) for row in rows[at[:_SHOWN]])
            raise DataError(
                f"The label {values[int(at[0])].as_py()!r} in column {name!r} {why} "
                f"({at.size:,} such: row{'s' if at.size > 1 else ''} {where}"
                f"{', ...' if at.size > _SHOWN else ''})."
            )

    if pa.types.is_floating(values.type):  # as pandas turns whole numbers with gaps into
        small = pc.less_equal(pc.abs(values), 2.0**53)  # beyond, floats skip whole numbers
        whole = pc.and_(small, pc.equal(values, pc.round(values)))
        refuse(pc.invert(whole), "is no whole number: bin fractions, and leave unknown cells empty")
        values = values.cast(pa.int64())
    values = strings(values, name)
    # pandas also writes 1.0 for 1; where both occur, they are one class
    pointed = pc.match_substring(values, ".")
    if pc.all(pc.match_substring_regex(values, _WHOLE)).as_py() and not pc.all(pointed).as_py():
        values = pc.replace_substring_regex(values, r"\.0+$", "")
    trimmed = pc.utf8_trim_whitespace(values)
    refuse(
        pc.is_in(pc.utf8_lower(trimmed), value_set=pa.array(["nan", "<na>"])),
        "is what pandas writes for a missing value; fill it in, or leave the cell empty",
    )
    refuse(
        pc.and_(pc.not_equal(trimmed, values), pc.not_equal(trimmed, "")),
        "has blanks at its beginning or end, which would make a class of its own; trim it",
    )
    return pc.if_else(pc.equal(trimmed, ""), None, values)


def class_order(names: Sequence[str]) -> list[str]:
    """Classes in alphabetical order, or by number where all are numbers."""
    unique = set(names)
    if all(_NUMBER.fullmatch(name) for name in unique):
        return sorted(unique, key=lambda name: (float(name), name))
    return sorted(unique)


def encode_labels(labels: pa.Array, classes: Sequence[str]) -> pa.Array:
    """Class names as indices into ``classes``."""
    multilabel = pa.types.is_list(labels.type)
    values = pc.list_flatten(labels) if multilabel else labels
    parents = pc.list_parent_indices(labels).to_numpy() if multilabel else np.arange(len(labels))
    codes = pc.index_in(values, value_set=pa.array(classes, pa.string())).cast(pa.int64())
    unknown = true_rows(pc.and_(pc.is_null(codes), pc.is_valid(values)))
    if unknown.size:
        raise DataError(
            f"Label {values[int(unknown[0])].as_py()!r} (row {parents[unknown[0]]}; "
            f"{unknown.size:,} unknown labels in all) is none of the {len(classes)} classes: "
            f"{', '.join(classes[:20])}{', ...' if len(classes) > 20 else ''}. Mend the label, or "
            "add it to classes."
        )
    if not multilabel:
        return codes
    # a class that a cell names twice applies once
    pairs = parents.astype(np.int64) * len(classes) + codes.to_numpy()
    kept = np.sort(np.unique(pairs, return_index=True)[1])
    once = codes.take(pa.array(kept))
    return _lists(once, parents[kept], len(labels), np.asarray(pc.is_null(labels)))
