"""Digests by which images, texts and tokenizers are identified."""

import json
import os
import shutil
from types import SimpleNamespace

import pytest

from epic_pl.data.preprocessing import load_tokenizer
from epic_pl.features.digests import image_digests, text_digest, tokenizer_digest


@pytest.fixture
def root(tmp_path):
    for name, content in (("a.png", b"a"), ("copy.png", b"a"), ("b.png", b"b")):
        (tmp_path / name).write_bytes(content)
    return tmp_path


def digests_of(memory, root, *paths):
    """By path alone."""
    digests = image_digests([(str(root), path) for path in paths], memory)
    return {path: digest for (_, path), digest in digests.items()}


def test_digests_are_of_the_content_and_remembered_until_a_file_changes(root):
    memory = root / "deep" / "memory.json"
    first = digests_of(memory, root, "a.png", "copy.png", "b.png")
    assert first["a.png"] == first["copy.png"] != first["b.png"]
    memory.write_text(json.dumps(dict.fromkeys(json.loads(memory.read_text()), "remembered")))
    os.utime(root / "b.png", ns=(1, 1))
    again = digests_of(memory, root, "a.png", "b.png")
    assert again == {"a.png": "remembered", "b.png": first["b.png"]}


@pytest.mark.parametrize("damage", ["", "{", "[1, 2", "[]", "null", '{"a": 5, "b": [1]}'])
def test_a_damaged_memory_is_replaced(root, damage):
    memory = root / "memory.json"
    memory.write_text(damage)
    first = digests_of(memory, root, "a.png")
    assert set(first.values()) <= {str(kept) for kept in json.loads(memory.read_text()).values()}


def test_a_memory_that_cannot_be_written_is_done_without(root):
    first = digests_of(root / "a.png" / "memory.json", root, "a.png")
    assert first == digests_of(root / "memory.json", root, "a.png")


def test_texts_differ_by_every_character():
    assert len({text_digest(text) for text in ("é", "e", "a", "a ")}) == 4


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
