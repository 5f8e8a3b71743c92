"""``benchmarks/tables.py``: the rows of its tables, and a table on tiny encoders."""

import csv
import json
import random

import pytest

import tiny_runs
from epic_pl.assets import Emoji

EMOJI = [
    Emoji(f"{group}{number:02}", f"{name} number {number}", name, f"{name}-kind")
    for group, name in enumerate(("food", "animals", "travel"))
    for number in range(30)
]


@pytest.fixture
def tables():
    import tables

    return tables


def _made(tables, name, seed=0):
    by_code = {each.code: each for each in EMOJI}
    rows = tables.TABLES[name](EMOJI, random.Random(seed))
    return [(by_code[code], text, label) for code, text, label in rows]


def test_one_word_is_of_the_name_and_the_label_the_category(tables):
    for emoji, text, label in _made(tables, "one_word"):
        assert text in emoji.name.split()
        assert label == emoji.category


def test_some_noisy_titles_are_of_others(tables):
    own = 0
    rows = _made(tables, "noisy_titles")
    for emoji, text, label in rows:
        assert text
        assert label == emoji.subcategory
        own += set(text.split()) <= set(emoji.name.split())
    assert 0.6 < own / len(rows) < 1


def test_some_cells_are_empty(tables, monkeypatch):
    many = EMOJI * 14
    rows = tables.empty_cells(many, random.Random(0))
    assert len(rows) == 1200
    empty = sum(text == "" for _, text, _ in rows) / len(rows)
    assert 0.35 < empty < 0.45


def test_agreement_is_about_the_name(tables):
    rows = _made(tables, "agreement")
    for emoji, text, label in rows:
        assert (text == emoji.name) == (label == "yes")
        if label == "no":
            assert text.split()[0] != emoji.category
    assert 0.3 < sum(label == "yes" for *_, label in rows) / len(rows) < 0.7


def test_an_unknown_table_is_named(tables, monkeypatch):
    monkeypatch.setattr("sys.argv", ["tables.py", "--tables", "one_word,chess"])
    with pytest.raises(SystemExit, match=r"chess.*one_word.*agreement"):
        tables.main()


@pytest.mark.slow
def test_a_table_is_compared(
    tables, monkeypatch, tiny_vit_dir, tiny_tokenizer_dir, tmp_path, capsys
):
    pictures = tmp_path / "drawn"
    tiny_runs.table(pictures, train=len(EMOJI), val=0, test=0)
    for number, each in enumerate(EMOJI):
        drawn = pictures / "pictures" / f"train{number}.png"
        drawn.rename(pictures / f"{each.code}.png")
    monkeypatch.setattr(tables, "fetch_openmoji", lambda size: pictures)
    monkeypatch.setattr(tables, "load_emoji", lambda: EMOJI)
    monkeypatch.chdir(tmp_path)
    encoders = [f"--model.image_encoder={tiny_vit_dir}", "--model.image_size=32"]
    encoders += [f"--model.text_encoder={tiny_tokenizer_dir}", "--trainer.max_epochs=1"]
    arguments = ["--tables", "one_word", "--seeds", "1", "--json", "--folder", "out"]
    monkeypatch.setattr(
        "sys.argv", ["tables.py", *arguments, *encoders, "--trainer.accelerator=cpu"]
    )
    tables.main()
    with (tmp_path / "out" / "one_word" / "table.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(EMOJI)
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])
    methods = ["majority", "linear_probe", "epic", "scikit-learn's probe"]
    assert [row["method"] for row in rows] == methods
    assert all(row["table"] == "one_word" and 0 <= row["mean"] <= 1 for row in rows)
