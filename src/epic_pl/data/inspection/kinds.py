"""Guess which further columns of a table hold numbers, dates or categories for the model."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow.types import is_struct

from epic_pl.data.cells import date_parts
from epic_pl.data.tables.columns import RESERVED, SPLIT_NAMES, RowOptions, is_bytes, read_cells
from epic_pl.utils.errors import DataError

LEAK = 0.95  # share of rows whose label a column tells, from which it is suspected
_INTERVALS = 32
_RECURS = 0.2  # largest share of different values among a category's cells
_LONGEST = 50  # characters of a category


def guess_kinds(
    table: pa.Table, labelled: npt.NDArray[np.bool_], label: str
) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Guess the kinds of a table's columns in the rows that are ``labelled (N,)``.

    Returns:
        The columns by option, such as ``number_columns``, without ids, constants and texts; and
        those that tell the label alone, with the share of rows in which they do.
    """
    plain = [
        each.name for each in table.schema if not (is_bytes(each.type) or is_struct(each.type))
    ]
    kinds, leaks = dict[str, list[str]](), dict[str, float]()
    table = table.select(plain).filter(pa.array(labelled))
    labels = [str(cell) for cell in table[label].to_pylist()]
    for name in [name for name in plain if name != label and name not in RESERVED]:
        for kind in ("number", "date", "category"):
            named: Any = {f"{kind}_columns": [name]}
            try:
                cells = read_cells(table, RowOptions(**named))
            except DataError:
                continue
            values = [row[name] for row in cells.to_pylist()]
            if _is_informative(kind, values):
                forms: list[Sequence[object]] = [values]
                if kind == "date":  # a year or a weekday may tell, too
                    parts = zip(*map(date_parts, values), strict=True)
                    forms = [[n if n is None else float(n) for n in part] for part in parts]
                if (share := max(told(form, labels) for form in forms)) >= LEAK:
                    leaks[name] = share
                else:
                    kinds.setdefault(f"{kind}_columns", []).append(name)
            break
    return kinds, leaks


def _is_informative(kind: str, values: Sequence[object]) -> bool:
    """Whether cells differ, and are no ids: whole numbers of one row each, or rare strings."""
    known = [value for value in values if value is not None]
    distinct = len(set(known))
    if distinct < 2 or {*known} <= {*SPLIT_NAMES}:
        return False
    if kind == "category":
        longest = max(len(str(value)) for value in known)
        return distinct <= max(2, _RECURS * len(known)) and longest <= _LONGEST
    whole = all(isinstance(value, float) and value.is_integer() for value in known)
    return not (whole and distinct == len(values))


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
