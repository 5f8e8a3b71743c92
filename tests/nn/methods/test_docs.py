"""What docs/methods.md says of the methods is so."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from tiny_models import METHODS, base_method, count_trained

from epic_pl.module.parameters import trainable_share

PAGE = (Path(__file__).parents[3] / "docs" / "methods.md").read_text(encoding="utf-8")


def rows(start: str) -> dict[str, list[str]]:
    """Cells of the table that begins with ``start``, by each name in its first cell."""
    lines = PAGE[PAGE.index(start) :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: row for row in cells for name in re.findall(r"`(\w+)`", row[0])}


@pytest.mark.parametrize("name", METHODS)
def test_the_table_counts_what_is_trained(name):
    model, row = base_method(name), rows("| `model.method`")[name]
    assert row[2:4] == [f"{count_trained(model):,}", f"{trainable_share(model):.2%}"]
    levels = re.findall(r"`(tokens|layers)`", row[4].split(";")[0])
    assert tuple(levels) == model.cache_levels


@pytest.mark.parametrize("name", [n for n in METHODS if n not in ("EPIC", "NoInteraction")])
def test_the_table_lists_every_option(name):
    _, shared, own = rows("| Method |")[name]
    said = set(re.findall(r"`(\w+)`", shared + own))
    options = {field.name for field in fields(METHODS[name])} - {"interaction_layers"}
    assert said == options
