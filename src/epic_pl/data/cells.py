"""Numbers, dates and categories of a table as features.

This file uses only numpy, since exported models come with a copy of it.

Shape legend: B batch, F features.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 16
MOST_VALUES = 256  # of a category column that have features of their own
# as pandas reads them; with separators of any kind, and names of months
DATE_FORMATS = (
    *(f"%Y{mark}%m{mark}%d" for mark in "-/."),
    *(f"{form.replace(' ', mark)}" for mark in "-/." for form in ("%d %m %Y", "%m %d %Y")),
    *("%d %B %Y", "%B %d, %Y", "%d %b %Y", "%b %d, %Y"),
)
_DATE_PARTS = ("year", "month", "weekday", "day")
_WHOLE = re.compile(r"([+-]?\d+)\.0+")
_EMPTY = frozenset(("", "n/a", "na", "null", "none", "-", "?"))
UNITS = "[$€£¥₹₩₺₽%]|EUR|USD|GBP|CHF|JPY|CNY|INR|SEK|NOK|DKK|PLN|CZK|CAD|AUD"
"""Currencies and percent, before or after a number, as a regular expression."""
_UNIT = re.compile(rf"^([+-]?)\s*(?:{UNITS})\s*(?=[\d.,+-])|(?<=\d)\s*(?:{UNITS})$")
# a sign of thousands, and perhaps another one of decimals
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}([.,\s'\u2019])\d{3}(?:\1\d{3})*(?:(?!\1)[.,]\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")
_EITHER = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}")  # thousands or decimals


@dataclass(frozen=True)
class ColumnPreprocessing:
    """What is known of a table's columns from its training rows, as plain types.

    A number has the features of piecewise-linear encoding (*On Embeddings for Numerical Features in
    Tabular Deep Learning*, arXiv 2203.05556): of each interval between two quantiles the share that
    lies below the number. A date is the numbers year, month, weekday and day, which counts from the
    year 1. A category has an indicator of each value that occurs at least twice, and one of all
    others. A further feature of each column is 1, or 0 if the cell is empty: then all its features
    are 0. Features stand in the alphabetical order of their columns, numbers before categories.

    Attributes:
        numbers: increasing quantiles of each column of numbers, also of a date's parts.
        dates: format of each column of dates, as ``strptime`` takes it; ISO 8601 is always read.
        categories: values of each column of categories, the most frequent first.

    Example:
        >>> columns = ColumnPreprocessing.fit({"price": [1, 3]}, {}, {"brand": ["a", "a", "b"]})
        >>> columns.encode([{"price": 2, "brand": "a"}, {"price": None, "brand": "new"}])
        array([[0.5, 1. , 1. , 0. , 1. ],
               [0. , 0. , 0. , 1. , 1. ]], dtype=float32)
    """

    numbers: dict[str, list[float]] = field(default_factory=dict)
    dates: dict[str, str] = field(default_factory=dict)
    categories: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, columns in vars(self).copy().items():
            object.__setattr__(self, kind, dict(sorted(columns.items())))

    @classmethod
    def fit(
        cls,
        numbers: Mapping[str, Iterable[float | None]],
        dates: Mapping[str, tuple[str, Iterable[date | None]]],
        categories: Mapping[str, Iterable[str | None]],
    ) -> "ColumnPreprocessing":
        """Learn from the cells of training rows; dates come with their format."""
        formats = {name: form for name, (form, _) in dates.items()}
        given: dict[str, Iterable[float | None]] = dict(numbers)
        for name, (_, days) in dates.items():
            parts = [*map(date_parts, days)]
            for at, part in enumerate(part_names(name)):
                given[part] = [numbers[at] for numbers in parts]
        knots = {name: _quantiles(cells) for name, cells in given.items()}
        return cls(knots, formats, {name: _values(cells) for name, cells in categories.items()})

    @cached_property
    def owners(self) -> dict[str, str]:
        """The column of each name in :attr:`features`: a date has several of them."""
        own = {name: name for name in (*self.numbers, *self.categories)}
        return own | {part: name for name in self.dates for part in part_names(name)}

    @cached_property
    def names(self) -> list[str]:
        """Names of the columns."""
        return [*dict.fromkeys(self.owners.values())]

    @property
    def options(self) -> dict[str, Any]:
        """Options of :class:`~epic_pl.data.tables.datamodule.TableDataModule` to read these."""
        typed = {*self.dates, *self.categories}
        numbers = [name for name in self.names if name not in typed]
        named = {"number_columns": numbers, "date_columns": self.dates}
        return named | {"category_columns": [*self.categories]}

    @property
    def features(self) -> list[tuple[str, str]]:
        """Name of each of the F features, with its interval, from 1, or category.

        It is the column's, or that of a part of a date.
        """
        meanings: dict[str, list[Any]] = {}
        for name, knots in self.numbers.items():
            meanings[name] = [*range(1, len(knots)), "known"]
        for name, values in self.categories.items():
            meanings[name] = [*values, "other", "known"]
        return [(name, str(each)) for name, of in meanings.items() for each in of]

    @property
    def width(self) -> int:
        """Number of features F."""
        return len(self.features)

    def encode(self, rows: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.float32]:
        """Features ``(B, F)`` of B rows, each with its cells by column; absent ones are empty.

        Raises:
            ValueError: if a cell is of another kind; the message names column and cell.
        """
        parsed = [self.parsed(row) for row in rows]
        made: list[npt.NDArray[Any]] = []
        for name, knots in self.numbers.items():
            cells = np.array([row.get(name, math.nan) for row in parsed], np.float64)
            made += _shares(cells, np.array(knots)), ~np.isnan(cells)[:, None]
        for name, values in self.categories.items():
            places = {value: place for place, value in enumerate(values)}
            shown = np.zeros((len(rows), len(values) + 2))
            for one, row in zip(shown, parsed, strict=True):
                if name in row:
                    one[[places.get(row[name], len(values)), -1]] = 1
            made.append(shown)
        return np.concatenate(made, axis=1).astype(np.float32)

    def parsed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The numbers, a date's parts, and categories of a row, without empty cells.

        Raises:
            ValueError: as in :meth:`encode`.
        """
        found: dict[str, Any] = {}
        for name in self.names:
            cell = row.get(name)
            if is_empty(name, cell, name in self.categories):
                continue
            cell = cell.strip() if isinstance(cell, str) else cell
            if name in self.dates:
                found |= zip(
                    part_names(name), date_parts(as_date(name, cell, self.dates[name])), strict=True
                )
            else:
                found[name] = (
                    as_category(cell) if name in self.categories else as_number(name, cell)
                )
        return found


def is_empty(name: str, cell: Any, category: bool = False) -> bool:
    """Whether a cell is None, NaN, NaT, NA, blank, or a word such as ``n/a``.

    NA, null, none, - and ? may be values of a ``category``, and are empty in other columns.

    Raises:
        ValueError: if it is a list, an array or another container.
    """
    if isinstance(cell, str):
        word = cell.strip().lower()
        return word in (("", "n/a") if category else _EMPTY)
    if hasattr(cell, "__len__"):
        raise ValueError(f"{name} is {cell!r:.60}, but must be one number, date or text")
    try:
        return cell is None or bool(cell != cell)
    except (TypeError, ArithmeticError):  # pandas' NA, and a Decimal's signalling NaN
        return True


def as_number(name: str, cell: Any) -> float:
    """A finite number, also from a text such as ``€ 1.234,50`` or ``12%``, which is 12.

    Raises:
        ValueError: if it is none, or may be two, such as ``1,234``.
    """
    try:
        plain = _plain(cell) if isinstance(cell, str) else cell
        number = math.nan if isinstance(cell, bool | np.bool_) or "_" in str(cell) else float(plain)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        if is_ambiguous(cell):
            raise ValueError(f"{name} is {cell!r}, in thousands or with decimals: write 1234.5")
        raise ValueError(f"{name} is {cell!r:.60}, but must be a finite number such as 1234.5")
    return number


def is_ambiguous(cell: Any) -> bool:
    """Whether the mark of a number such as ``1,234`` or ``€ 1.234`` may be of thousands."""
    return isinstance(cell, str) and bool(_EITHER.fullmatch(_UNIT.sub(r"\1", cell.strip())))


def _plain(cell: str) -> str:
    """A number as Python writes it; the cell as it is if it is ambiguous."""
    if is_ambiguous(cell):
        return cell
    text = _UNIT.sub(r"\1", cell.strip())
    if found := _THOUSANDS.fullmatch(text):
        text = text.replace(found[1], "")
    return text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text


def as_category(cell: Any) -> str:
    """The text of a category, the same from a table and from Python.

    1.0 is 1, as pandas writes whole numbers with gaps, and true is True.
    """
    if isinstance(cell, float | np.floating) and float(cell).is_integer():
        return str(int(cell))
    text = str(cell).strip()
    if whole := _WHOLE.fullmatch(text):
        return whole[1]
    return text.capitalize() if text.lower() in ("true", "false") else text


def as_date(name: str, cell: Any, form: str) -> date:
    """A date from a date, or from a text of a format or else of ISO 8601.

    Raises:
        ValueError: if it is none.
    """
    if isinstance(cell, date):
        return cell
    text = str(cell)
    with suppress(ValueError):
        return datetime.strptime(text, form)
    # without marks Python takes 13 digits for a date with a time
    if not text.isdecimal() or len(text) == len("20070610"):
        with suppress(ValueError):
            return datetime.fromisoformat(text)
    raise ValueError(f"{name} is {cell!r:.60}, but must be a date such as 2007-06-10, or as {form}")


def is_format(form: str) -> bool:
    """Whether dates can be written and read in a format of ``strptime``."""
    try:
        datetime.strptime(datetime(2007, 6, 10, tzinfo=UTC).strftime(form), form)
    except (ValueError, re.error):  # an unknown directive, or one that occurs twice
        return False
    return True


def part_names(name: str) -> list[str]:
    """Names of the numbers that a column of dates becomes."""
    return [f"{name} {part}" for part in _DATE_PARTS]


def date_parts(day: date | None) -> tuple[float | None, ...]:
    """The numbers of a date that features are made of, None without a date."""
    return (None,) * 4 if day is None else (day.year, day.month, day.weekday(), day.toordinal())


def _quantiles(cells: Iterable[float | None]) -> list[float]:
    known = np.array([cell for cell in cells if cell is not None and cell == cell], np.float64)
    levels = np.linspace(0, 1, BINS + 1)
    knots = np.quantile(known, levels, method="inverted_cdf") if known.size else np.zeros(1)
    return [float(knot) for knot in np.unique(knots)]


def _values(cells: Iterable[str | None]) -> list[str]:
    counts = Counter(cell for cell in cells if cell is not None)
    return [value for value, times in counts.most_common(MOST_VALUES) if times > 1]


def _shares(cells: npt.NDArray[np.float64], knots: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Shares ``(B, T)`` of T intervals that lie below the cells ``(B,)``; zeros for NaN."""
    with np.errstate(over="ignore", invalid="ignore"):
        shares = (cells[:, None] - knots[:-1]) / np.diff(knots)
    return np.asarray(np.nan_to_num(shares.clip(0, 1)))
