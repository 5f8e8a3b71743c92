"""The kinds of columns that ``data init`` proposes, and suspected leaks."""

import random

import numpy as np
import pyarrow as pa
import pytest

from epic_pl.data.inspection.init import write_config
from epic_pl.data.inspection.kinds import guess_kinds, told
from epic_pl.utils.config_files import read_yaml

ROWS = 600


def _table(**columns) -> pa.Table:
    rng = random.Random(0)
    labels = [rng.choice("abc") for _ in range(ROWS)]
    return pa.table(
        {"label": labels, **{name: make(rng, labels) for name, make in columns.items()}}
    )


def _guess(**columns):
    return guess_kinds(_table(**columns), np.ones(ROWS, bool), "label")


def test_a_column_that_tells_the_label_alone_is_a_suspected_leak():
    def code(rng, labels):
        return [f"code {label}" for label in labels]

    def noisy(rng, labels):
        return [label if rng.random() < 0.7 else rng.choice("abc") for label in labels]

    def number(rng, labels):
        return ["abc".index(label) + rng.random() / 2 for label in labels]

    def year(rng, labels):
        return [f"{rng.randint(10, 28)}.12.{2001 + 'abc'.index(label)}" for label in labels]

    kinds, leaks, _ = _guess(code=code, noisy=noisy, number=number, year=year)
    assert leaks.keys() == {"code", "number", "year"}
    assert kinds["category_columns"] == ["noisy"]
    assert leaks["code"] == 1
    two = _table().set_column(0, "label", [["a" if n % 3 else "b" for n in range(ROWS)]])
    days = [f"{1 + n % 28}.12.2001" if n % 3 else "" for n in range(ROWS)]
    leaks = guess_kinds(two.append_column("cancelled_on", [days]), np.ones(ROWS, bool), "label")[1]
    assert leaks.keys() == {"cancelled_on"}
    assert told(["x"] * 8, "abababab") == pytest.approx(0)  # from the rows between


def test_the_config_has_the_columns_and_says_what_may_be_a_leak(tmp_path, capsys):
    table = _table(
        image=lambda *_: [f"{number}.png" for number in range(ROWS)],
        text=lambda rng, _: [f"some words, number {number}" for number in range(ROWS)],
        price=lambda rng, _: [rng.random() for _ in range(ROWS)],
        code=lambda _, labels: [f"code {label}" for label in labels],
    )
    pa.csv = pytest.importorskip("pyarrow.csv")
    pa.csv.write_csv(table, tmp_path / "table.csv")
    config, said = write_config(
        tmp_path / "table.csv", image="image", text="text", label="label", split="none"
    )
    options = read_yaml(config)["data"]["init_args"]
    assert options["number_columns"] == ["price"]
    assert "category_columns" not in options
    assert "numbers     price" in said
    assert "left out    code" in said
    assert "code tells the label of 100% of rows: is it known before the label?" in said


def _messy_price(rng, _):
    return [rng.choice([f"{rng.random() * 90:.2f}", "€ 62,18", "n/a"]) for _ in range(ROWS)]


def _mostly_numbers(rng, _):
    return [f"{rng.random():.4f}" if number % 20 else "ask us" for number in range(ROWS)]


@pytest.mark.parametrize(
    ("kind", "make", "remark"),
    [
        ("number", _messy_price, "'€ 62,18' is 62.18, 'n/a' is empty"),
        ("number", lambda rng, _: [f"{rng.random():.3f}" for _ in range(ROWS)], ""),
        ("number", lambda rng, _: [rng.choice([1, 2, None]) for _ in range(ROWS)], ""),
        ("date", lambda rng, _: [f"{rng.randint(1, 28)}.12.2001" for _ in range(ROWS)], ""),
        ("category", lambda rng, _: [rng.choice(["x", "y", ""]) for _ in range(ROWS)], ""),
        ("category", lambda rng, _: [rng.choice(["x", "y", "N/A"]) for _ in range(ROWS)], "'N/A'"),
        (None, _mostly_numbers, "95% numbers; 30 cells not: 'ask us'"),
        (None, lambda *_: [f"{n},234" for n in range(1, 600)] + [""], "1,234', '2,234' may be"),
        (
            None,
            lambda *_: ["1,5"] + [f"{n}.234" for n in range(1, ROWS)],
            "has decimal commas, and point",
        ),
        (None, lambda *_: [f"{'€$'[n % 2]} {n},50" for n in range(ROWS)], "holds numbers in $, €"),
        (None, lambda *_: [None, "n/a"] * (ROWS // 2), "empty"),
        (None, lambda *_: [None] * ROWS, "empty"),
        (None, lambda *_: ["same"] * ROWS, "only 'same'"),
        (None, lambda *_: [*range(ROWS)], "another value in each row"),
        (None, lambda *_: [f"name {n}" for n in range(ROWS)], "another value in each row"),
        (None, lambda *_: [f"name {n // 2}" for n in range(ROWS)], "300 values in 600 rows"),
        (
            None,
            lambda rng, _: [rng.choice("xy") * 60 for _ in range(ROWS)],
            "texts of more than 50",
        ),
        (None, lambda *_: ["train", "val"] * (ROWS // 2), "names of splits"),
        (None, lambda *_: [[1, 2]] * ROWS, "holds list<"),
        (None, lambda _, labels: labels, "see leaks"),
    ],
)
def test_kinds_and_remarks_on_how_a_column_is_read_or_why_not_follow_from_cells(kind, make, remark):
    kinds, leaks, remarks = _guess(it=make)
    assert remarks["it"].startswith(remark) or remark in remarks["it"]
    assert bool(remarks["it"]) == bool(remark)
    assert kinds.keys() == ({f"{kind}_columns"} if kind else set())
    assert bool(leaks) == (remark == "see leaks")


def test_a_column_named_as_an_entry_of_an_item_is_left_out_with_a_word():
    table = _table(top_k=lambda rng, _: [rng.random() for _ in range(ROWS)])
    table = table.rename_columns(["shelf", "label"])
    kinds, _, remarks = guess_kinds(table, np.ones(ROWS, bool), "shelf")
    assert (kinds, remarks) == ({}, {"label": "the name of an entry of an item, rename it"})
