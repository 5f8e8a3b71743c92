"""The features of numbers, dates and categories, against a slow reference."""

import math
from dataclasses import asdict
from datetime import date, datetime
from decimal import Decimal
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from epic_pl.data.cells import (
    BINS,
    MOST_VALUES,
    ColumnPreprocessing,
    as_category,
    as_date,
    as_number,
)
from epic_pl.data.preprocessing import column_preprocessing
from epic_pl.data.tables.columns import RowOptions, read_cells
from epic_pl.utils.errors import ConfigError, DataError

DAYS = [date(2000 + number % 7, 1 + number % 12, 1 + number % 28) for number in range(40)]


def test_a_number_is_its_share_of_each_interval_between_quantiles():
    rng = np.random.default_rng(0)
    known = rng.lognormal(size=500).tolist()
    columns = ColumnPreprocessing.fit({"price": [*known, None, float("nan")]}, {}, {})
    knots = columns.numbers["price"]
    assert len(knots) == BINS + 1
    assert {knots[0], knots[-1]} == {min(known), max(known)}
    counts = np.histogram(known, knots)[0]
    assert counts.max() - counts.min() <= 2
    cells = [*known[:20], -5.0, 1e9, None]
    found = columns.encode([{"price": cell} for cell in cells])
    for cell, row in zip(cells, found, strict=True):
        expected = [
            0.0 if cell is None else min(max((cell - low) / (high - low), 0), 1)
            for low, high in pairwise(knots)
        ]
        np.testing.assert_allclose(row, [*expected, cell is not None], rtol=1e-6)


def test_a_date_is_its_year_month_weekday_and_day():
    columns = ColumnPreprocessing.fit({}, {"day": ("%d/%m/%Y", DAYS)}, {})
    assert columns.names == ["day"]
    assert {*columns.numbers} == {f"day {part}" for part in ("year", "month", "weekday", "day")}
    assert {columns.owners[name] for name, _ in columns.features} == {"day"}
    forms = ["07/03/2004", "2004-03-07", date(2004, 3, 7), datetime(2004, 3, 7, 23, 59)]
    rows = columns.encode([{"day": form} for form in forms])
    assert (rows == rows[0]).all()
    parts = {f"day {part}": [getattr(day, part) for day in DAYS] for part in ("year", "month")}
    parts["day weekday"] = [day.weekday() for day in DAYS]
    parts["day day"] = [day.toordinal() for day in DAYS]
    numbers = ColumnPreprocessing.fit(parts, {}, {})
    same = numbers.encode(
        [
            {
                "day year": 2004,
                "day month": 3,
                "day weekday": 6,
                "day day": date(2004, 3, 7).toordinal(),
            }
        ]
    )
    np.testing.assert_array_equal(same, rows[:1])
    with pytest.raises(ValueError, match=r"day is '2004-13-01', but must be a date .* as %d/%m/%Y"):
        columns.encode([{"day": "2004-13-01"}])


def test_a_category_has_an_indicator_if_it_recurs_and_others_share_one():
    cells = ["a"] * 5 + ["b"] * 9 + ["once", None, None]
    columns = ColumnPreprocessing.fit({}, {}, {"brand": cells})
    assert columns.categories == {"brand": ["b", "a"]}
    rows = columns.encode([{"brand": cell} for cell in ("a", " b ", "once", "new", "", None)])
    assert rows.tolist() == [[0, 1, 0, 1], [1, 0, 0, 1], *[[0, 0, 1, 1]] * 2, *[[0, 0, 0, 0]] * 2]
    many = [f"value {number // 2}" for number in range(20_000)]
    assert len(ColumnPreprocessing.fit({}, {}, {"brand": many}).categories["brand"]) == MOST_VALUES


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        ("3", (3, 3.0, "3", " 3.0", np.int64(3), np.float64(3), np.float32(3))),
        ("-3", (-3, -3.0, "-3.00", np.float32(-3))),
        ("0.1", (0.1, "0.1", np.float64(0.1), np.float32(0.1))),
        ("True", (True, "true", "TRUE", np.True_)),
        (str(2**60 + 1), (2**60 + 1, str(2**60 + 1))),
        ("1.50", ("1.50",)),
    ],
)
def test_a_category_is_the_same_in_any_form(text, forms):
    assert {as_category(form) for form in forms} == {text}


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64(), pa.int8(), pa.bool_(), pa.string()])
def test_a_category_of_a_table_is_that_of_python(kind):
    cells = {"bool": [True, False], "int8": [1, -2], "string": ["1.0", "0.1"]}
    cells = cells.get(str(kind), [1.0, 0.1, -2.0, math.nan])
    table = pa.table({"size": pa.array([*cells, None], kind)})
    read = read_cells(table, RowOptions(category_columns=["size"])).to_pylist()
    given = table["size"].to_pandas().dropna().to_numpy() if pa.types.is_floating(kind) else cells
    texts = [as_category(cell) for cell in given]
    assert [row["size"] for row in read] == [*texts, *[None] * (len(read) - len(texts))]


@pytest.mark.parametrize(
    "cell", [None, "", " ", math.nan, np.float32("nan"), pd.NA, pd.NaT, Decimal("sNaN")]
)
def test_unknown_values_are_empty(cell):
    columns = ColumnPreprocessing.fit({"price": [1, 2]}, {"day": ("%Y", DAYS)}, {"a": ["b", "b"]})
    assert columns.parsed({"price": cell, "day": cell, "a": cell}) == {}


def test_features_do_not_depend_on_the_order_of_columns():
    numbers, values = {"b": [1, 2], "a": [3, 4]}, {"d": ["x", "x"], "c": ["y", "y"]}
    columns = ColumnPreprocessing.fit(numbers, {}, values)
    turned = [dict(reversed(given.items())) for given in (numbers, values)]
    assert columns.features == ColumnPreprocessing.fit(turned[0], {}, turned[1]).features
    saved = {"columns": asdict(columns)}
    assert column_preprocessing(saved) == columns
    saved["columns"]["numbers"] = dict(reversed(saved["columns"]["numbers"].items()))
    with pytest.raises(ConfigError, match="numbers is not in alphabetical order"):
        column_preprocessing(saved)
    with pytest.raises(ConfigError, match=r"numbers is .*must be of type"):
        column_preprocessing({"columns": {"numbers": {"a": [10**400]}}})


def test_a_given_format_comes_before_iso_8601():
    read = [as_date("day", text, "%Y-%d-%m") for text in ("2007-10-06", "2007-13-06", "20070610")]
    assert [day.timetuple()[:3] for day in read] == [(2007, 6, 10), (2007, 6, 13), (2007, 6, 10)]


def test_the_features_are_named_in_their_order_and_an_empty_row_is_zero():
    columns = ColumnPreprocessing.fit(
        {"price": [1, 2, 3]}, {"day": ("%Y", DAYS)}, {"brand": ["x", "x"]}
    )
    assert columns.names == ["day", "price", "brand"]
    assert columns.width == len(columns.features) == columns.encode([{}]).shape[1]
    assert not columns.encode([{}]).any()
    first = columns.features.index(("price", "1"))
    assert columns.features[first:][:3] == [("price", "1"), ("price", "2"), ("price", "known")]
    assert columns.features[-3:] == [("brand", "x"), ("brand", "other"), ("brand", "known")]
    for name, cell in (("price", 2), ("day", "2001-02-03"), ("brand", "x")):
        (row,) = columns.encode([{name: cell}])
        own = [columns.owners[feature] == name for feature, _ in columns.features]
        assert row[own].any()
        assert not row[~np.array(own)].any()
    assert columns.options == {
        "number_columns": ["price"],
        "date_columns": {"day": "%Y"},
        "category_columns": ["brand"],
    }


def test_columns_without_content_have_no_features_but_the_flag():
    columns = ColumnPreprocessing.fit({"none": [None], "one": [7, 7]}, {}, {"rare": ["a", "b"]})
    rows = torch.from_numpy(columns.encode([{"none": 5, "one": 7, "rare": "a"}, {}]))
    assert torch.equal(rows, torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]))


@pytest.mark.parametrize("text", ["10.06.2007", "0000-01-01", "yesterday", "5", "1112010112345"])
def test_what_is_no_date_is_refused(text):
    with pytest.raises(ValueError, match="day is"):
        as_date("day", text, "%Y/%m/%d")


@pytest.mark.parametrize(
    ("number", "cells"),
    [
        (62.18, ("€ 62,18", "62,18 EUR", "62.18", " $62.18 ", 62.18)),
        (1234.5, ("1.234,50", "1,234.50", "1 234,5", "1'234.50", "1\N{NO-BREAK SPACE}234,50 €")),
        (-1234567, ("-1.234.567", "-1,234,567", "$ -1,234,567", "-$1,234,567")),
        (12, ("12%", "12 %", "12", "+12")),
        (0.123, ("0,123", "0.123", ",123")),
        (1234.567, ("1234,567", "1,234.567", "1.234567e3")),
        (1.234, ("1.234",)),  # as Python reads it
    ],
)
def test_everyday_cells_are_numbers(number, cells):
    assert [as_number("price", cell) for cell in cells] == [number] * len(cells)


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        *((cell, "in thousands or with decimals") for cell in ("1,234", "€ 1.234", "-12,345 %")),
        *((cell, "must be a finite number") for cell in ("1.2.3", "1,23,456", "0,123,456", "€")),
        *((cell, "must be a finite number") for cell in ("10.06.2007", "5 x", "+-5", "1_000,5")),
    ],
)
def test_a_text_that_is_no_number_or_may_be_two_is_refused(cell, told):
    with pytest.raises(ValueError, match=told):
        as_number("price", cell)


@pytest.mark.parametrize("word", ["n/a", " N/A", "NA", "null", "None", "-", "?"])
def test_words_for_missing_values_are_empty_but_most_are_values_of_categories(word):
    table = pa.table({"it": [word, "1"], "day": [word, "2001-02-03"]})
    read = read_cells(table, RowOptions(number_columns=["it"], date_columns=["day"]))
    assert read.to_pylist() == [{"it": None, "day": None}, {"it": 1, "day": date(2001, 2, 3)}]
    (first, _) = read_cells(table, RowOptions(category_columns=["it"])).to_pylist()
    assert first["it"] == (None if "/" in word else word)
    columns = ColumnPreprocessing.fit({"it": [1, 2]}, {}, {"day": ["x", "x"]})
    assert columns.parsed({"it": word}) == {}
    assert columns.parsed({"day": word}) == ({} if "/" in word else {"day": word})


@pytest.mark.parametrize(
    ("kind", "cells", "told"),
    [
        ("number", ["1.234", "1,5"], r"decimal commas, .* of thousands in row 0 \('1\.234'\)"),
        ("number", ["€ 1,50", "$ 2,50"], r"holds numbers in \$, €"),
        ("number", ["1", "inf"], r"'it' \(number_columns\) holds no number in row 1"),
        ("number", ["1", "1,234"], r"row 1 \('1,234'\)\. Write 1234\.5"),
        ("number", ["1", "€ 1.234"], "holds no number in row 1"),
        ("date", ["2000-01-01", "0000-01-01"], r"holds no date in row 1 \('0000-01-01'\)"),
        (
            "date",
            [f"0{1 + number % 9}/0{1 + number % 5}/2001" for number in range(23)],
            r"may be 2001-.*date_columns: \{it: '%d/%m/%Y'\} or '%m",
        ),
    ],
)
def test_cells_that_cannot_be_read_or_in_two_ways_are_named(kind, cells, told):
    with pytest.raises(DataError, match=told):
        read_cells(pa.table({"it": cells}), RowOptions(**{f"{kind}_columns": ["it"]}))
