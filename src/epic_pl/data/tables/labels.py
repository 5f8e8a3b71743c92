"""The label column of a user's table as class names of each row, or errors that name rows."""

import ast
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.data.rows import true_rows
from epic_pl.data.tables.columns import column, strings
from epic_pl.errors import ConfigError, DataError

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_WHOLE = r"^-?[0-9]+(\.0+)?$"
# numpy writes no commas, and Python would join the strings
_WITHOUT_COMMA = re.compile(r"""['"]\s+['"]""")

Labels = list[list[str] | None]
"""Class names of each row, None where they are unknown."""


def is_list(kind: pa.DataType) -> bool:
    """Whether cells are lists, of any of Arrow's layouts."""
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def written_lists(cells: Any) -> pa.Array | None:
    """Lists that strings spell out, such as ``["red", "round"]``; None where cells are no lists."""
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
        found = None if _WITHOUT_COMMA.search(cell) else ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(found, list) or not all(isinstance(x, str | int | float) for x in found):
        return None
    return [str(name) for name in found]


def label_column(
    table: pa.Table, name: str, separator: str | None, ignored: npt.NDArray[np.bool_]
) -> tuple[Labels, bool]:
    """Labels, and whether a row may have several; with a separator an empty cell is None.

    Args:
        table: with the column.
        name: of the column.
        separator: of several labels in a cell.
        ignored: mask of rows whose labels are not read: those of rows to predict may be "?".
    """
    cells = column(table, name, "label_column")
    if ignored.any():
        cells = cells.take(pa.array(np.arange(len(cells)), mask=ignored))
    written = written_lists(cells)
    cells = cells if written is None else written
    if is_list(cells.type):
        if separator is not None:
            raise ConfigError(f"Column {name!r} holds lists: leave label_separator out.")
        lists = cells.to_pylist()
        rows = [row for row, each in enumerate(lists) for _ in each or ()]
        names = _class_names(pc.list_flatten(cells), name, rows)
        if None in names:
            raise DataError(
                f"A label list of column {name!r} holds a null (row {rows[names.index(None)]}). "
                "Take it out, or make the whole list null where labels are unknown."
            )
        rest = iter(names)
        return [None if each is None else [next(rest) or "" for _ in each] for each in lists], True
    if separator is None:
        names = _class_names(cells, name, range(len(cells)))
        return [None if each is None else [each] for each in names], False
    if not separator:
        raise ConfigError("label_separator is empty; give a string such as '|', or leave it out.")
    split = [(cell or "").split(separator) for cell in strings(cells, name).to_pylist()]
    parts = [[part.strip() for part in row if part.strip()] for row in split]
    rows = [row for row, each in enumerate(parts) for _ in each]
    flat = pa.array([part for row in parts for part in row], pa.string())
    rest = iter(_class_names(flat, name, rows))
    return [[next(rest) or "" for _ in each] or None for each in parts], True


def _class_names(values: Any, name: str, rows: Sequence[int]) -> list[str | None]:
    """Class names as strings without blanks around them; ``rows`` holds the row of each value."""

    def refuse(mask: Any, why: str) -> None:
        at = true_rows(mask)
        if at.size:
            raise DataError(
                f"The label {values[int(at[0])].as_py()!r} in column {name!r} {why} "
                f"({at.size:,} such, the first in row {rows[int(at[0])]})."
            )

    if pa.types.is_floating(values.type):  # as pandas turns whole numbers with gaps into
        whole = pc.and_(pc.is_finite(values), pc.equal(values, pc.round(values)))
        refuse(pc.invert(whole), "is no whole number: bin fractions, and leave unknown cells empty")
        values = values.cast(pa.int64())
    values = pc.utf8_trim_whitespace(strings(values, name))
    # pandas also writes 1.0 for 1; where both occur, they are one class
    pointed = pc.match_substring(values, ".")
    if pc.all(pc.match_substring_regex(values, _WHOLE)).as_py() and not pc.all(pointed).as_py():
        values = pc.replace_substring_regex(values, r"\.0+$", "")
    refuse(
        pc.is_in(pc.utf8_lower(values), value_set=pa.array(["nan", "<na>"])),
        "is what pandas writes for a missing value; fill it in, or leave the cell empty",
    )
    names: list[str | None] = pc.if_else(pc.equal(values, ""), None, values).to_pylist()
    return names


def class_order(names: Iterable[str]) -> list[str]:
    """Classes in alphabetical order, or by number where all are numbers."""
    unique = set(names)
    if all(_NUMBER.fullmatch(name) for name in unique):
        return sorted(unique, key=lambda name: (float(name), name))
    return sorted(unique)


def encode_labels(labels: Labels, classes: Sequence[str]) -> list[list[int] | None]:
    """Class names as indices into ``classes``; one that a cell names twice applies once."""
    index = {name: code for code, name in enumerate(classes)}
    unknown = [
        (row, name) for row, names in enumerate(labels) for name in names or () if name not in index
    ]
    if unknown:
        row, name = unknown[0]
        raise DataError(
            f"Label {name!r} (row {row}; {len(unknown):,} unknown labels in all) is none of the "
            f"{len(classes)} classes, such as {classes[0]!r}. Correct it, or add it to classes."
        )
    return [
        None if names is None else list(dict.fromkeys(index[name] for name in names))
        for names in labels
    ]
