"""Guess which further columns of a table hold numbers, dates or categories for the model."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow.types import is_nested

from epic_pl.data.cells import as_number, date_parts, is_ambiguous, is_empty
from epic_pl.data.rows import RowsError
from epic_pl.data.tables.columns import RESERVED, SPLIT_NAMES, RowOptions, is_bytes, read_cells
from epic_pl.utils.errors import DataError, counted

LEAK = 0.95  # share of rows whose label a column tells, from which it is suspected
_INTERVALS = 32
_RECURS = 0.2  # largest share of different values among a category's cells
_SHOWN = 2
_LONGEST = 50  # characters of a category


def guess_kinds(
    table: pa.Table, labelled: npt.NDArray[np.bool_], label: str
) -> tuple[dict[str, list[str]], dict[str, float], dict[str, str]]:
    """Guess the kinds of a table's columns in the rows that are ``labelled (N,)``.

    Returns:
        The columns by option, such as ``number_columns``, without ids, constants and texts; those
        that tell the label alone, with the share of rows in which they do; and why a column is left
        out, or how everyday cells of the others are read.
    """
    kinds, leaks, remarks = dict[str, list[str]](), dict[str, float](), dict[str, str]()
    for each in table.schema:
        if is_bytes(each.type) or is_nested(each.type):
            remarks[each.name] = f"holds {each.type}"
        elif each.name in RESERVED:
            remarks[each.name] = "the name of an entry of an item, rename it"
    plain = [name for name in table.column_names if name == label or name not in remarks]
    table = table.select(plain).filter(pa.array(labelled))
    labels = [str(cell) for cell in table[label].to_pylist()]
    for name in [name for name in plain if name != label]:
        why = ""
        for kind in ("number", "date", "category"):
            named: Any = {f"{kind}_columns": [name]}
            try:
                cells = read_cells(table, RowOptions(**named))
            except DataError as error:
                why = why or _unread(table[name], name, kind, error)
                continue
            values = [row[name] for row in cells.to_pylist()]
            if uninformative := _uninformative(kind, values):
                remarks[name] = why or uninformative
            else:
                forms: list[Sequence[object]] = [values]
                if kind == "date":  # a year or a weekday may tell, too
                    parts = zip(*map(date_parts, values), strict=True)
                    forms = [[n if n is None else float(n) for n in part] for part in parts]
                if (share := max(told(form, labels) for form in forms)) >= LEAK:
                    leaks[name], remarks[name] = share, "see leaks"
                else:
                    kinds.setdefault(f"{kind}_columns", []).append(name)
                    remarks[name] = _everyday_cells(table[name], name, kind)
            break
    return kinds, leaks, remarks


def _unread(column: pa.ChunkedArray, name: str, kind: str, error: DataError) -> str:
    """Why a column is not of a kind; empty if few of its cells are."""
    why = str(error).partition("_columns)")[2].strip(" :").partition(". ")[0]
    if not isinstance(error, RowsError) or not why.startswith(f"holds no {kind}"):
        return why
    wrong = column.take(error.rows).unique().to_pylist()
    shown = ", ".join(f"{cell!r:.30}" for cell in wrong[:_SHOWN])
    if all(map(is_ambiguous, wrong)):
        return f"{shown} may be in thousands or with decimals"
    share = 1 - len(error.rows) / sum(not is_empty(name, cell) for cell in column.to_pylist())
    return f"{share:.0%} {kind}s; {counted(len(error.rows), 'cells')} not: {shown}" * (share >= 0.5)


def _everyday_cells(column: pa.ChunkedArray, name: str, kind: str) -> str:
    """How a number that is not written as in Python, and a word for an empty cell, are read."""
    said: dict[bool, str] = {}
    for text in column.cast(pa.string()).unique().drop_null().to_pylist():
        if text.strip() and is_empty(name, text, kind == "category"):
            said.setdefault(True, f"{text!r} is empty")
        elif text.strip() and kind == "number":
            try:
                float(text)
            except ValueError:
                said.setdefault(False, f"{text!r} is {as_number(name, text)}")
    return ", ".join(said.values())


def _uninformative(kind: str, values: Sequence[object]) -> str:
    """Why cells are of no use: one value, ids (whole numbers or strings of one row each), texts."""
    known = [value for value in values if value is not None]
    distinct = len(set(known))
    if distinct < 2:
        return f"only {known[0]!r:.30}" if known else "empty"
    if {*known} <= {*SPLIT_NAMES}:
        return "names of splits"
    if kind == "category" and distinct <= max(2, _RECURS * len(known)):
        longest = max(len(str(value)) for value in known)
        return f"texts of more than {_LONGEST} characters" * (longest > _LONGEST)
    if distinct < len(values):
        return f"{distinct:,} values in {len(known):,} rows" * (kind == "category")
    whole = all(isinstance(value, float) and value.is_integer() for value in known)
    return "another value in each row" * (whole or kind == "category")


def told(values: Sequence[object], labels: Sequence[str]) -> float:
    """Share of every second row whose label is the most frequent one of its value in the others.

    Numbers are taken by intervals of equal numbers of rows; an unknown value tells nothing.
    """
    if any(isinstance(value, float) for value in values):
        order = sorted(range(len(values)), key=lambda row: (values[row] is None, values[row]))
        ranks = {row: place * _INTERVALS // len(values) for place, row in enumerate(order)}
        values = [ranks[row] for row in range(len(values))]
    counts: dict[object, Counter[str]] = defaultdict(Counter)
    for value, label in zip(values[::2], labels[::2], strict=True):
        counts[value][label] += 1
    rest = list(zip(values[1::2], labels[1::2], strict=True))
    right = (counts[v].most_common(1)[0][0] == label for v, label in rest if v in counts)
    return sum(right) / max(len(rest), 1)
