"""Conversion of the label column of a user's table to class indices; errors name rows."""

import ast
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.data.rows import refuse, refuse_rows, true_rows
from epic_pl.data.tables.columns import RowOptions
from epic_pl.utils.errors import ConfigError, DataError

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_WHOLE = r"^-?[0-9]+(\.0+)?$"
# numpy writes no commas, and Python would join the strings
_WITHOUT_COMMA = re.compile(r"""['"]\s+['"]""")

MISSING = ("#N/A", "N/A", "NA", "NULL", "None", "n/a", "null")
"""Class names that may stand for a missing value, as ``nan`` and ``<NA>`` always do."""

ClassNames = list[list[str] | None]
"""Class names of each row, None if unknown."""


def read_labels(
    cells: pa.Array, split: npt.NDArray[np.str_], options: RowOptions
) -> tuple[list[list[int] | None], Sequence[str], bool]:
    """Convert the cells of the label column to class indices.

    Labels of rows to predict are ignored, so they may be "?". If ``split``, the split of each row,
    names no such rows, a test split without any label is predicted.

    Returns:
        Class indices of each row, None for a row to predict; class names; whether rows may have
        several.

    Raises:
        DataError: if labels are missing, ambiguous, or no class.
        ConfigError: if the separator does not fit the column.
    """
    column, to_predict = options.label_column, split == "predict"
    if to_predict.any():
        cells = cells.take(pa.array(np.arange(len(cells)), mask=to_predict))
    names, multilabel = _class_names(cells, column, options.label_separator)
    is_named = np.array([bool(row) for row in names])
    if not to_predict.any() and not is_named[split == "test"].any():
        to_predict = split == "test"
    names = [None if skipped else row for row, skipped in zip(names, to_predict, strict=True)]
    unknown = np.array([row is None for row in names]) & ~to_predict
    way_out = f"Fill in column {column!r}, drop the row, or put it into a split named predict."
    refuse_rows(unknown, "There is no label in", way_out)
    for part in ("train", "val", "test"):
        here = (split == part) & ~to_predict
        if here.any() and not is_named[here].any():
            none = f"No row of the {part} split ({here.sum():,} rows) has a label in {column!r}"
            raise DataError(f"{none}: label them, or name the split predict.")
    classes = options.classes or _in_order(name for row in names for name in row or ())
    if len(classes) < 2 and not multilabel:
        raise DataError(f"Column {column!r} holds one class only ({', '.join(classes)}).")
    if multilabel and (barred := [name for name in classes if "|" in name]):
        raise DataError(
            f"Predictions join labels by |: rename class {barred[0]!r} of column {column!r} or, if "
            "it is several classes, set label_separator to |."
        )
    return _encode(names, classes), classes, multilabel


def _class_names(cells: Any, column: str, separator: str | None) -> tuple[ClassNames, bool]:
    """Class names of each row, and whether rows may have several."""
    written = written_lists(cells)
    cells = cells if written is None else written
    if separator is not None and pa.types.is_nested(cells.type):
        raise ConfigError(f"Column {column!r} holds lists: leave label_separator out.")
    if separator == "":
        raise ConfigError("label_separator is empty; give a string such as '|', or leave it out.")
    if separator is not None:  # a row with an empty cell has no class
        rows = [(cell or "").split(separator) for cell in cells.cast(pa.string()).to_pylist()]
        parts = [[part.strip() for part in row if part.strip()] for row in rows]
        cells = pa.array(parts, pa.list_(pa.string()))
    if not pa.types.is_nested(cells.type):
        names = _names(cells, column, range(len(cells)))
        return [None if name is None else [name] for name in names], False
    lists = cells.to_pylist()
    row_of = [row for row, values in enumerate(lists) for _ in values or ()]
    names = _names(pc.list_flatten(cells), column, row_of)
    if None in names:
        raise DataError(
            f"A label list of {column!r} holds a null (row {row_of[names.index(None)]}): remove it."
        )
    rest = iter(names)
    return [None if row is None else [next(rest) or "" for _ in row] for row in lists], True


def written_lists(cells: Any) -> pa.Array | None:
    """Parse strings such as ``["red", "round"]`` as lists; None if the strings are no lists."""
    if not (pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type)):
        return None
    written = [cell and cell.strip() for cell in cells.to_pylist()]
    filled = [cell for cell in written if cell]
    if not filled or not all(cell[0] == "[" and cell[-1] == "]" for cell in filled):
        return None
    lists = [_list(cell) if cell else None for cell in written]
    broken = [row for row, cell in enumerate(written) if cell and lists[row] is None]
    if len(broken) == len(filled):
        return None  # names of classes in brackets
    if broken:
        raise DataError(
            f"Labels are lists, but {written[broken[0]]!r:.60} cannot be read as one (row "
            f'{broken[0]}; {len(broken):,} such). Write ["a", "b"], or a|b with label_separator.'
        )
    return pa.array(lists, pa.list_(pa.string()))


def _list(cell: str) -> list[str] | None:
    with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        value = None if _WITHOUT_COMMA.search(cell) else ast.literal_eval(cell)
        if isinstance(value, list) and all(isinstance(x, str | int | float) for x in value):
            return [str(name) for name in value]  # a ValueError for thousands of digits
    return None


def _names(values: Any, column: str, rows: Sequence[int]) -> list[str | None]:
    """Class names without surrounding blanks; ``rows`` has the row of each value."""

    def check(mask: Any, why: str) -> None:
        at = true_rows(mask)
        if at.size:
            told = f"The label {values[int(at[0])].as_py()!r} in column {column!r} {why} "
            told += f"({at.size:,} such, the first in row {rows[int(at[0])]})."
            refuse(DataError(told))

    if pa.types.is_floating(values.type):  # pandas stores integers with gaps as floats
        whole = pc.and_(pc.less(pc.abs(values), 2.0**53), pc.equal(values, pc.round(values)))
        why = "is no whole number below 2^53: bin fractions, and leave unknown cells empty"
        check(pc.invert(whole), why)
        values = values.cast(pa.int64(), safe=False)
    values = pc.utf8_trim_whitespace(values.cast(pa.string()))
    # pandas also writes 1.0 for 1; if both occur, they are one class
    pointed = pc.match_substring(values, ".")
    if pc.all(pc.match_substring_regex(values, _WHOLE)).as_py() and not pc.all(pointed).as_py():
        values = pc.replace_substring_regex(values, r"\.0+$", "")
    check(
        pc.is_in(pc.utf8_lower(values), value_set=pa.array(["nan", "<na>"])),
        "is what pandas writes for a missing value; fill it in, or leave the cell empty",
    )
    return cast(list[str | None], pc.if_else(pc.equal(values, ""), None, values).to_pylist())


def _in_order(names: Iterable[str]) -> list[str]:
    """Class names in alphabetical order, or in numerical order if all are numbers."""
    classes = sorted(set(names))
    return sorted(classes, key=float) if all(map(_NUMBER.fullmatch, classes)) else classes


def _encode(names: ClassNames, classes: Sequence[str]) -> list[list[int] | None]:
    """Class names as indices into ``classes``; repetitions within a cell count once."""
    index = {name: code for code, name in enumerate(classes)}
    unknown = [
        (row, name) for row, named in enumerate(names) for name in named or () if name not in index
    ]
    if unknown:
        row, name = unknown[0]
        refuse(DataError(f"Label {name!r} (row {row}, {len(unknown):,} such) is not in classes."))
    known = [row and dict.fromkeys(name for name in row if name in index) for row in names]
    # a row without a known name is as one without a label, but [] is that no class applies
    return [
        None if row is None or (row and not named) else [index[name] for name in named or ()]
        for row, named in zip(names, known, strict=True)
    ]
