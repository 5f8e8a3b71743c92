"""Statements against the layout that they speak of, and what is unseen in which part."""

import re
from collections import Counter
from itertools import combinations
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_openmoji
from controls import scenes
from controls.scenes import KINDS, SceneGenerator, ScenesDataModule, vocabulary
from controls.subsets import SubsetAccuracy
from epic_pl.data import ImageTextDataModule
from epic_pl.module import EPICModule
from epic_pl.module.outputs import SplitOutputs
from epic_pl.module.postprocess import Postprocessor

TESTED = ("pairs", "objects")
PARTS = ("train", "val", *TESTED)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path))
    monkeypatch.setattr(scenes, "_ROWS", {"val": 24, "test": 24})
    monkeypatch.setattr(scenes, "_CHUNK", 8)
    tiny_openmoji.fill_named_cache(tmp_path)
    return tmp_path


@pytest.fixture
def generator() -> SceneGenerator:
    return SceneGenerator([thing.name.lower() for thing in vocabulary()], seed=0)


def data(**options) -> ScenesDataModule:
    encoders = {"image_encoder": "vit_tiny_patch16_224", "text_encoder": "unused"}
    return ScenesDataModule(image_size=32, **encoders, **options)


def is_true(text: str, boxes: dict[str, tuple[float, float, float]]) -> bool:
    """An independent reading of a statement; ``boxes`` has (left, top, side) by name."""
    if found := re.fullmatch(r"there is an? (\w+)(?: and an? (\w+))?", text):
        return all(name in boxes for name in found.groups() if name)
    words = r"(?:to the )?left of|(?:to the )?right of|above|over|below|under"
    found = re.fullmatch(rf"the (\w+) is ({words}) the (\w+)", text)
    (left, top, side), (other_left, other_top, other_side) = boxes[found[1]], boxes[found[3]]
    return {
        "left": left + side <= other_left,
        "right": left >= other_left + other_side,
        "above": top + side <= other_top,
        "over": top + side <= other_top,
        "below": top >= other_top + other_side,
        "under": top >= other_top + other_side,
    }[found[2].removeprefix("to the ").removesuffix(" of")]


@pytest.mark.parametrize("part", PARTS)
def test_statements_are_as_true_as_they_say_and_half_of_each_kind_are(part, generator):
    counts, phrases = Counter(), set()
    for index in range(160):
        (objects, placed), statements = generator.scene(part, index)
        assert len(set(objects)) == len(set(placed)) == len(objects)
        boxes = dict(zip((generator.names[each] for each in objects), placed, strict=True))
        for statement in statements:
            assert is_true(statement.text, boxes) == statement.truth, (statement, boxes)
            counts[statement.kind, statement.truth] += 1
            if statement.kind == "relation":
                phrases.add(tuple(statement.text.split()[3:-2]))
    number = 160 if part in TESTED else 80
    assert counts == {(kind, truth): number for kind in KINDS for truth in (True, False)}
    assert len(phrases) == 8


@pytest.mark.parametrize("part", TESTED)
def test_test_images_have_each_relation_either_way_round(part, generator):
    for index in range(40):
        said = generator.scene(part, index).statements
        texts = [each.text for each in said if each.kind == "relation"]
        one, other = (text.removeprefix("the ").rsplit(" the ", 1) for text in texts)
        (subject, *phrase), (reverse_subject, *reverse_phrase) = one[0].split(), other[0].split()
        assert (subject, other[1], phrase) == (other[1], subject, reverse_phrase)
        assert reverse_subject == one[1]


def named(text: str) -> list[str]:
    return [word for word in text.split() if len(word) == 4 and word[:2] == word[2:]]


def test_named_pairs_and_objects_of_test_are_unseen_in_training(generator):
    seen, pairs = {part: set() for part in PARTS}, {part: set() for part in PARTS}
    for part in PARTS:
        for index in range(160):
            (objects, _), statements = generator.scene(part, index)
            shown = [generator.names[each] for each in objects]
            groups = [named(each.text) for each in statements]
            seen[part].update(shown, *groups)
            if part == "train":  # nor what is shown beside what is named
                groups.append({*shown, *groups[0]})
            pairs[part].update(frozenset(two) for each in groups for two in combinations(each, 2))
    assert pairs["train"].isdisjoint(pairs["val"] | pairs["pairs"])
    assert pairs["val"].isdisjoint(pairs["pairs"])
    assert seen["pairs"] <= seen["train"]
    assert seen["objects"].isdisjoint(seen["train"] | seen["val"] | seen["pairs"])


def test_more_rows_add_to_those_of_fewer_and_images_show_the_objects(cache):
    rows = {}
    for number in (10, 40):
        module = data(rows=number)
        for split in ("train", "val"):
            module._draw(split)
        module.setup("fit")
        rows[number] = module.dataset("train").table.to_pylist()
        assert len(rows[number]) == number
    assert rows[40][:10] == rows[10]
    assert rows[10][0]["sample_id"] == "train-0-0-existence"
    assert module.subset_of(rows[10][1]["sample_id"]) == "conjunction"
    generator = module._generator
    for index in range(14):
        objects, boxes = generator.scene("train", index).arrangement
        path = module.dataset("train").image_root / rows[40][3 * index]["image"]
        expected = np.full((32, 32, 3), 255)
        for thing, box in zip(objects, boxes, strict=True):
            left, top, side = (round(32 * share) for share in box)
            code = int(vocabulary()[thing].code[2:])
            expected[top : top + side, left : left + side] = (4 * code, 250 - 4 * code, 100)
        with Image.open(path) as image:
            np.testing.assert_array_equal(np.asarray(image), expected)


def test_accuracies_of_kinds_are_those_of_their_own_rows():
    logits = torch.eye(2)[[0, 1, 1, 0, 0, 0]]
    labels = torch.tensor([1, 1, 0, 0, 0, 1])  # of any other rows, the shares would differ
    kinds = dict(zip("abcdef", ("odd", "even") * 3, strict=True))
    data = Mock(spec=ImageTextDataModule, task="multiclass")
    data.subsets, data.subset_of = ("even", "odd"), kinds.get
    module, logged = Mock(spec=EPICModule, postprocessor=Postprocessor("multiclass", 2)), {}
    module.outputs = Mock(merged=lambda: SplitOutputs(logits, labels, sample_id=list("abcdef")))
    module.log = lambda name, value, **_: logged.update({name: float(value)})
    SubsetAccuracy().on_test_epoch_end(Mock(datamodule=data, testing=True), module)
    assert logged == {
        "test/accuracy_even": pytest.approx(2 / 3),
        "test/accuracy_odd": pytest.approx(1 / 3),
    }
