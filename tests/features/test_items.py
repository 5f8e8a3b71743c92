"""What the stores of images and texts are known by: each thing that features depend on."""

import hashlib
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tiny_runs
from epic_pl.data.preprocessing import load_tokenizer
from epic_pl.features.items import Images, Texts, image_digests, tokenizer_digest


@pytest.fixture
def keys(make, tiny_vit_dir, tiny_tokenizer_dir, cache, tmp_path):
    """Keys of the stores of images and of texts, for options of the data and the model.

    A linear probe has fields without tokens, whose shapes do not depend on their number.
    """
    table = tiny_runs.table(tmp_path / "data")

    def keys(level="layers", dtype="float16", layers=2, data=(), change=lambda model: None):
        rows = tiny_runs.table_data(table, tiny_vit_dir, tiny_tokenizer_dir, **dict(data))
        rows.setup("validate")
        module = make(method="LinearProbe", options={"interaction_layers": layers})
        change(module.model)
        shared = torch.device("cpu"), rows, [rows.dataset("val")], level, dtype
        images = Images(module.model.image_tower, *shared, 1, tmp_path / "digests.json")
        texts = Texts(module.model.text_tower, *shared)
        return images.request(tmp_path).spec.key, texts.request(tmp_path).spec.key

    return keys


def in_encoder(side, **values):
    """Sets attributes of an encoder that its features depend on."""

    def change(model):
        for name, value in values.items():
            setattr(getattr(model, f"{side}_encoder"), name, value)

    return change


IMAGES, TEXTS, BOTH = (0,), (1,), (0, 1)


@pytest.mark.parametrize(
    ("changed", "others"),
    [
        ({"level": "tokens"}, BOTH),
        ({"dtype": "float32"}, BOTH),
        ({"layers": 3}, BOTH),
        ({"data": {"resize": "pad"}}, IMAGES),
        ({"data": {"max_text_tokens": 63}}, TEXTS),
        ({"change": in_encoder("image", _fingerprint="another")}, IMAGES),
        ({"change": in_encoder("text", _fingerprint="another")}, TEXTS),
        ({"change": in_encoder("image", pooling="mean")}, IMAGES),
        ({"change": in_encoder("text", precision=torch.bfloat16)}, TEXTS),
        ({"data": {"batch_size_per_device": 2, "clean_text": True}}, ()),  # texts are items
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else None,
)
def test_a_store_is_another_one_if_what_its_features_depend_on_changes(changed, others, keys):
    differ = [one != other for one, other in zip(keys(), keys(**changed), strict=True)]
    assert differ == [side in others for side in (0, 1)]


@pytest.mark.parametrize(
    ("name", "value", "others"),
    [
        ("store.spec.FEATURES_VERSION", 0, BOTH),
        ("items.tokenizer_digest", lambda tokenizer: "another", TEXTS),
    ],
)
def test_a_store_is_another_one_for_another_version_or_tokenizer(
    name, value, others, keys, monkeypatch
):
    before = keys()
    monkeypatch.setattr(f"epic_pl.features.{name}", value)
    differ = [one != other for one, other in zip(before, keys(), strict=True)]
    assert differ == [side in others for side in (0, 1)]


@pytest.fixture
def root(tmp_path):
    for name, content in (("a.png", b"a"), ("copy.png", b"a"), ("b.png", b"b")):
        (tmp_path / name).write_bytes(content)
    return tmp_path


def digests_of(memory, root, *paths):
    """By path alone."""
    digests = image_digests([(str(root), path) for path in paths], memory)
    return {path: digest for (_, path), digest in digests.items()}


def test_digests_are_of_the_content_and_remembered_until_a_file_changes(root, monkeypatch):
    memory = root / "deep" / "memory.json"
    first = digests_of(memory, root, "a.png", "copy.png", "b.png")
    assert first["a.png"] == first["copy.png"] != first["b.png"]
    os.utime(root / "b.png", ns=(1, 1))
    read, seen = Path.read_bytes, []
    monkeypatch.setattr(Path, "read_bytes", lambda path: seen.append(path.name) or read(path))
    assert digests_of(memory, root, "a.png", "copy.png", "b.png") == first
    assert seen == ["b.png"]


@pytest.mark.parametrize(
    "damage",
    [
        *("", "{", "[1, 2", "[]", "null", "5", "[" * 100_000),
        *('{"a": 5, "b": [1]}', '[{"a": 5}, 1]', "[{}, null]"),
        ("b.png", "c.png"),  # a path, by one bit
        (hashlib.sha256(b"a").hexdigest(), hashlib.sha256(b"b").hexdigest()),
    ],
    ids=lambda damage: str(damage)[:20],
)
def test_a_damaged_memory_is_replaced(root, damage):
    memory = root / "memory.json"
    (root / "c.png").write_bytes(b"c")
    paths = ("a.png", "c.png", "b.png")
    for path in paths:
        os.utime(root / path, ns=(1, 1))
    first = digests_of(memory, root, *paths)
    sound = memory.read_text()
    memory.write_text(damage if isinstance(damage, str) else sound.replace(*damage))
    assert memory.read_text() != sound
    assert digests_of(memory, root, *paths) == first
    assert memory.read_text() == sound


def test_a_memory_that_cannot_be_written_is_done_without(root):
    first = digests_of(root / "a.png" / "memory.json", root, "a.png")
    assert first == digests_of(root / "memory.json", root, "a.png")


def test_a_tokenizer_is_identified_by_its_state(tiny_tokenizer_dir, tmp_path):
    first = load_tokenizer(str(tiny_tokenizer_dir))
    digest = tokenizer_digest(first)
    first(["a cat", "a"], padding=True, truncation=True, max_length=3)
    assert tokenizer_digest(first) == digest
    copy = shutil.copytree(tiny_tokenizer_dir, tmp_path / "copy")
    assert tokenizer_digest(load_tokenizer(str(copy))) == digest
    plain = json.loads((copy / "tokenizer.json").read_text())
    plain["normalizer"] = {"type": "Lowercase"}
    (copy / "tokenizer.json").write_text(json.dumps(plain))
    assert tokenizer_digest(load_tokenizer(str(copy))) != digest
    # without a backend the words decide
    vocabularies = ({"a": 0, "b": 1}, {"a": 1, "b": 0}, {"b": 1, "a": 0})
    slow = [SimpleNamespace(get_vocab=lambda words=words: words) for words in vocabularies]
    assert len({tokenizer_digest(tokenizer) for tokenizer in slow}) == 2
