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


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("number", lambda rng, _: [f"{rng.random():.4f}" for _ in range(ROWS)]),
        ("number", lambda rng, _: [rng.choice([1, 2, None]) for _ in range(ROWS)]),
        ("date", lambda rng, _: [f"{rng.randint(1, 28)}.12.2001" for _ in range(ROWS)]),
        ("category", lambda rng, _: [rng.choice(["x", "y", ""]) for _ in range(ROWS)]),
        (None, lambda *_: [*range(ROWS)]),
        (None, lambda *_: [f"name {number}" for number in range(ROWS)]),
        (None, lambda *_: ["same"] * ROWS),
        (None, lambda *_: [None] * ROWS),
        (None, lambda rng, _: [rng.choice(["train", "val", "test"]) for _ in range(ROWS)]),
        (None, lambda rng, _: [rng.choice(["x", "y"]) * 60 for _ in range(ROWS)]),
    ],
)
def test_kinds_follow_from_cells(kind, make):
    kinds, leaks = _guess(it=make)
    found = {name: kinds.get(f"{name}_columns", []) for name in ("number", "date", "category")}
    assert found == {name: ["it"] * (name == kind) for name in found}
    assert not leaks


def test_a_column_that_tells_the_label_alone_is_a_suspected_leak():
    def code(rng, labels):
        return [f"code {label}" for label in labels]

    def noisy(rng, labels):
        return [label if rng.random() < 0.7 else rng.choice("abc") for label in labels]

    def number(rng, labels):
        return ["abc".index(label) + rng.random() / 2 for label in labels]

    def year(rng, labels):
        return [f"{rng.randint(10, 28)}.12.{2001 + 'abc'.index(label)}" for label in labels]

    kinds, leaks = _guess(code=code, noisy=noisy, number=number, year=year)
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
