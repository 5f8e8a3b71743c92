"""Statements against the layout that they speak of, and what is unseen in which part."""

import re
from collections import Counter
from itertools import combinations

import pytest
from PIL import Image

import tiny_openmoji
from epic_pl.data.datasets import scenes
from epic_pl.data.datasets.scenes import KINDS, SceneGenerator, ScenesDataModule, vocabulary
from epic_pl.errors import ConfigError

PARTS = ("train", "val", "pairs", "objects")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path))
    monkeypatch.setattr(scenes, "_ROWS", {"val": 24, "test": 24})
    monkeypatch.setattr(scenes, "_CHUNK", 8)
    tiny_openmoji.fill_named_cache(tmp_path)
    return tmp_path


@pytest.fixture
def generator() -> SceneGenerator:
    return SceneGenerator([each.name.lower() for each in vocabulary()], seed=0)


def data(**options) -> ScenesDataModule:
    encoders = {"image_encoder": "vit_tiny_patch16_224", "text_encoder": "unused"}
    return ScenesDataModule(image_size=32, **encoders, **options)


def is_true(text: str, cells: dict[str, tuple[int, int]]) -> bool:
    """An independent reading of a statement; ``cells`` has (row, column) by name."""
    if found := re.fullmatch(r"there is an? (\w+)(?: and an? (\w+))?", text):
        return all(name in cells for name in found.groups() if name)
    found = re.fullmatch(r"the (\w+) is (left of|right of|above|below) the (\w+)", text)
    (row, column), (other_row, other_column) = cells[found[1]], cells[found[3]]
    return {
        "left of": column < other_column,
        "right of": column > other_column,
        "above": row < other_row,
        "below": row > other_row,
    }[found[2]]


@pytest.mark.parametrize("part", PARTS)
def test_statements_are_as_true_as_they_say_and_half_of_each_kind_are(generator, part):
    counts = Counter()
    for index in range(160):
        layout, statements = generator.scene(part, index)
        assert len(set(layout.objects)) == len(set(layout.cells)) == len(layout.objects)
        names = [generator.names[each] for each in layout.objects]
        cells = dict(zip(names, (divmod(cell, 2) for cell in layout.cells), strict=True))
        for statement in statements:
            assert is_true(statement.text, cells) == statement.truth, (statement, cells)
            counts[statement.kind, statement.truth] += 1
    assert counts == {(kind, truth): 80 for kind in KINDS for truth in (True, False)}


def named(text: str) -> list[str]:
    return [word for word in text.split() if len(word) == 4 and word[:2] == word[2:]]


def test_named_pairs_and_objects_of_test_are_unseen_in_training(generator):
    seen, pairs = {part: set() for part in PARTS}, {part: set() for part in PARTS}
    for part in PARTS:
        for index in range(160):
            layout, statements = generator.scene(part, index)
            shown = [generator.names[each] for each in layout.objects]
            groups = [named(each.text) for each in statements]
            seen[part].update(shown, *groups)
            if part == "train":  # nor what is shown beside what is named
                groups.append({*shown, *groups[0]})
            pairs[part].update(frozenset(two) for each in groups for two in combinations(each, 2))
    assert pairs["train"].isdisjoint(pairs["val"] | pairs["pairs"])
    assert pairs["val"].isdisjoint(pairs["pairs"])
    assert seen["pairs"] <= seen["train"]
    assert seen["objects"].isdisjoint(seen["train"] | seen["val"] | seen["pairs"])


def test_more_rows_add_to_those_of_fewer_and_pictures_show_the_objects(cache):
    rows = {}
    for number in (10, 40):
        module = data(rows=number)
        module._draw("train")
        module.setup("fit")
        rows[number] = module.dataset("train").table.to_pylist()
        assert len(rows[number]) == number
    assert rows[40][:10] == rows[10]
    assert rows[10][0]["sample_id"] == "train-0-existence"
    assert module.subset_of(rows[10][1]["sample_id"]) == "conjunction"
    generator = module._generator
    for index in range(14):
        layout = generator.scene("train", index).layout
        path = module.dataset("train").image_root / rows[40][3 * index]["image"]
        with Image.open(path) as picture:
            found = {
                cell: picture.getpixel((8 + 16 * (cell % 2), 8 + 16 * (cell // 2)))
                for cell in range(4)
            }
        expected = dict.fromkeys(range(4), (255, 255, 255))
        for each, cell in zip(layout.objects, layout.cells, strict=True):
            code = int(vocabulary()[each].code[2:])
            expected[cell] = (4 * code, 250 - 4 * code, 100)
        assert found == expected


def test_test_is_of_unseen_pairs_or_objects_and_the_seed_moves_all():
    texts = set()
    for options in ({}, {"unseen": "objects"}, {"scene_seed": 1}):
        module = data(**options)
        module._draw("test")
        module.setup("test")
        texts.add(tuple(module.dataset("test").table["text"].to_pylist()))
    assert len(texts) == 3


def test_names_share_no_word(monkeypatch):
    things = [
        "Black Cat",
        "Cat",
        "Cat Face",
        "Kite",
        "Grapes",
        "Compass",
        "Bow And Arrow",
        "Toy Kite",
    ]
    rows = [scenes.Emoji("1F600", name, "Objects", "tool") for name in things]
    rows.append(scenes.Emoji("1F601", "Grin", "Smileys & Emotion", "face"))
    monkeypatch.setattr(scenes, "load_emoji", lambda: rows)
    assert [each.name for each in vocabulary()] == ["Cat", "Kite", "Compass"]


@pytest.mark.parametrize("options", [{"rows": 2}, {"unseen": "kinds"}, {"scene_seed": -1}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        data(**options)
