"""What docs/methods.md says of the methods is so."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tiny_models import base_method, batch, count_trained, make

import tiny_runs
from epic_pl.cli.epic_cli import run
from epic_pl.module.parameters import trainable_share
from epic_pl.nn.methods import METHODS, Method

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
    if row[4] != "as for `epic`":
        levels = re.findall(r"`(boundary|layers)`", row[4].split(";")[0])
        assert tuple(levels) == model.cache_levels


@pytest.mark.parametrize("name", [n for n in METHODS if n not in ("epic", "no_interaction")])
def test_the_table_lists_every_option(name):
    _, shared, own = rows("| Method |")[name]
    said = set(re.findall(r"`(\w+)`", shared + own))
    assert said == set(METHODS[name].options)


@pytest.fixture
def gated(monkeypatch):
    (code,) = re.findall(r'```python\n("""Gated.*?)```', PAGE, re.DOTALL)
    module = ModuleType("gated_example")
    monkeypatch.setitem(sys.modules, "gated_example", module)
    exec(compile(code, "docs/methods.md", "exec"), module.__dict__)
    monkeypatch.setitem(METHODS, "gated", Method(module.GatedConfig, module.Gated))


def test_the_example_of_a_new_method_works(gated):
    model = make("gated", options={"width": 6})
    logits = model(batch([3, 2], [1, 0], [1, 1])).logits
    assert logits.shape == (2, 5)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_the_example_of_a_new_method_is_fitted(gated, tiny_vit_dir, tiny_tokenizer_dir, tmp_path):
    tiny_runs.table(tmp_path, train=40)
    config = tiny_runs.table_config(tmp_path, tiny_vit_dir, tiny_tokenizer_dir)
    options = ["--config", str(config), "--model.method=gated", "--trainer.max_epochs=1"]
    assert run(["fit", *options, f"--trainer.default_root_dir={tmp_path}"]).trainer.global_step > 0
