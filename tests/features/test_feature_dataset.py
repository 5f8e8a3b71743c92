"""Batches from stored features, and the digests by which pictures are known."""

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from epic_pl.data.collate import whole_batch
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.datasets.entailment import EntailmentPairs
from epic_pl.data.preprocessing import load_tokenizer
from epic_pl.data.rows import sample_table
from epic_pl.errors import ConfigError, DataError
from epic_pl.features.dataset import (
    CachedDataset,
    PictureDigests,
    by_name,
    pictures,
    text_digest,
    tokenizer_digest,
)

PATHS = ["a.png", None, "b.png", "a.png"]
TEXTS = ["one", "two", None, "one"]


class Source:
    """Stores whose only feature is the row; rows are positions in the sorted items."""

    def __init__(self, views=0):
        self.views, self.asked = views, []

    def image_rows(self, keys):
        self.asked += [None if key is None else key.view for key in keys]
        return np.array([-1 if key is None else ord(key.path[0]) for key in keys])

    def text_rows(self, texts):
        return np.array([-1 if text is None else len(text) for text in texts])

    def gather_images(self, rows):
        return {"pooled": torch.from_numpy(rows)[:, None]}

    def gather_texts(self, rows):
        mask = torch.from_numpy(rows)[:, None] > torch.arange(3)
        return {"pooled": torch.from_numpy(rows)[:, None]}, mask


class Labels:
    """Of a collator, all that is asked for."""

    def labels(self, rows):
        return torch.tensor([row["label"] for row in rows])


def rows(tmp_path, paths=PATHS, texts=TEXTS, labels=(0, 1, 2, 0), seed=0) -> ImageTextDataset:
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (4, 4), colour).save(tmp_path / name)
    ids = [f"row {number}" for number in range(len(paths))]
    table = sample_table(ids, paths, texts, labels)
    return ImageTextDataset(table, tmp_path, lambda _: torch.rand(3, 4, 4), seed=seed)


def cached(dataset, views=0, train=True) -> CachedDataset:
    return CachedDataset(dataset, Source(views), Labels(), train)


def test_a_batch_is_gathered_in_the_order_asked_for(tmp_path):
    dataset = cached(rows(tmp_path))
    batch = whole_batch(dataset.__getitems__([2, 0, 1]))
    assert len(dataset) == 4
    assert batch["sample_id"] == ["row 2", "row 0", "row 1"]
    assert batch["labels"].tolist() == [2, 0, 1]
    assert batch["image_features"]["pooled"].flatten().tolist() == [ord("b"), ord("a"), -1]
    assert batch["text_features"]["pooled"].flatten().tolist() == [-1, 3, 3]
    assert batch["image_present"].tolist() == [True, True, False]
    assert batch["text_present"].tolist() == [False, True, True]
    assert batch["attention_mask"].sum(dim=1).tolist() == [0, 3, 3]
    assert not {"pixel_values", "input_ids"} & batch.keys()


def test_presence_and_labels_are_left_out_where_there_is_nothing_to_say(tmp_path):
    batch = cached(rows(tmp_path)).__getitems__([0, 3])
    assert not {"image_present", "text_present"} & batch.keys()
    unknown = cached(rows(tmp_path, labels=[0, None, 2, 0]))
    assert "labels" not in unknown.__getitems__([0, 1])
    assert unknown.__getitems__([0, 2])["labels"].tolist() == [0, 2]


def test_one_row_is_a_batch_of_one(tmp_path):
    assert cached(rows(tmp_path))[2]["sample_id"] == ["row 2"]


def test_no_picture_is_read(tmp_path):
    dataset = rows(tmp_path)
    for name in ("a.png", "b.png"):
        (tmp_path / name).unlink()
    assert cached(dataset).__getitems__([0, 2])["sample_id"] == ["row 0", "row 2"]


def drawn(tmp_path, order, epoch=0, seed=0) -> dict[int, int]:
    count = 40
    dataset = cached(
        rows(tmp_path, ["a.png"] * count, ["x"] * count, [0] * count, seed=seed), views=2
    )
    dataset.set_epoch(epoch)
    for index in order:
        dataset.__getitems__([index])
    return dict(zip(order, dataset.source.asked, strict=True))


def test_views_depend_on_seed_epoch_and_row_alone(tmp_path):
    first = drawn(tmp_path, list(range(40)))
    assert set(first.values()) == {0, 1}
    assert 10 < sum(first.values()) < 30
    torch.rand(7)  # no global state has a say
    np.random.rand(7)  # noqa: NPY002
    assert drawn(tmp_path, list(range(39, -1, -1))) == first
    assert drawn(tmp_path, list(range(40)), epoch=1) != first
    assert drawn(tmp_path, list(range(40)), seed=1) != first


@pytest.mark.parametrize(("views", "train"), [(0, True), (3, False)])
def test_evaluation_sees_no_augmented_view(tmp_path, views, train):
    dataset = cached(rows(tmp_path), views, train)
    dataset.__getitems__([0, 1, 2, 3])
    assert dataset.source.asked == [-1, None, -1, -1]


def test_pairs_are_drawn_anew_every_epoch(tmp_path):
    names = ["one", "three"]
    pairs = EntailmentPairs(rows(tmp_path, ["a.png", "b.png"], names, [1, 1]), names, 8)
    dataset = cached(pairs)
    assert pictures(pairs) is pairs.pictures
    assert pairs.distinct() == (["a.png", "b.png"], names)
    epochs = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        batch = dataset.__getitems__(list(range(16)))
        lengths = batch["text_features"]["pooled"].flatten().tolist()
        assert lengths == [len(pairs.pair(index)[0]) for index in range(16)]
        assert batch["labels"].tolist() == [pairs.pair(index)[1] for index in range(16)]
        epochs.append(lengths)
    assert epochs[0] == epochs[2] != epochs[1]
    assert batch["sample_id"][:2] == ["row 0#0", "row 0#1"]


def test_rows_must_have_names(tmp_path):
    dataset = rows(tmp_path)
    assert by_name(dataset) is dataset
    with pytest.raises(ConfigError, match="list cannot tell its rows by name"):
        by_name([1, 2])


# pictures by path -----------------------------------------------------------------------------


def test_a_view_is_the_same_whenever_it_is_asked_for(tmp_path):
    dataset = rows(tmp_path)
    state = torch.get_rng_state()
    views = [dataset.picture("a.png", view) for view in range(3)]
    assert torch.equal(state, torch.get_rng_state())
    dataset.set_epoch(5)
    assert all(torch.equal(dataset.picture("a.png", v), views[v]) for v in (2, 0, 1))
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(views[0], dataset.picture("b.png", 0))
    assert not torch.equal(views[0], rows(tmp_path, seed=1).picture("a.png", 0))


def test_a_picture_outside_of_the_root_is_refused(tmp_path):
    with pytest.raises(DataError, match="outside"):
        rows(tmp_path).picture("../a.png")


def test_distinct_names_each_item_once(tmp_path):
    assert rows(tmp_path).distinct() == (["a.png", "b.png"], ["one", "two"])


# digests --------------------------------------------------------------------------------------


def digests_of(memory, root, *paths):
    """By path alone."""
    known = memory if isinstance(memory, PictureDigests) else PictureDigests(memory)
    return {path: digest for (_, path), digest in known((str(root), p) for p in paths).items()}


def test_digests_are_of_the_content(tmp_path):
    rows(tmp_path)
    (tmp_path / "copy.png").write_bytes((tmp_path / "a.png").read_bytes())
    digests = digests_of(tmp_path / "memory.json", tmp_path, "a.png", "copy.png", "b.png")
    assert digests["a.png"] == digests["copy.png"] != digests["b.png"]


def test_digests_are_remembered_until_a_file_changes(tmp_path):
    rows(tmp_path)
    memory = tmp_path / "deep" / "memory.json"
    first = digests_of(memory, tmp_path, "a.png", "b.png")
    written = json.loads(memory.read_text())
    for entry in written.values():
        entry[2] = "remembered"
    memory.write_text(json.dumps(written))
    assert set(digests_of(memory, tmp_path, "a.png", "b.png").values()) == {"remembered"}

    os.utime(tmp_path / "b.png", ns=(1, 1))
    assert digests_of(memory, tmp_path, "a.png", "b.png") == {
        "a.png": "remembered",
        "b.png": first["b.png"],
    }


@pytest.mark.parametrize("damage", ["", "{", "[1, 2", "[]", "null", '{"a": 5, "b": [1]}'])
def test_a_damaged_memory_is_made_anew(tmp_path, damage):
    rows(tmp_path)
    memory = tmp_path / "memory.json"
    memory.write_text(damage)
    first = digests_of(memory, tmp_path, "a.png")
    assert [entry[2] for entry in json.loads(memory.read_text()).values()] == list(first.values())


def test_pictures_inside_one_file_go_by_their_names(tmp_path):
    archive = tmp_path / "pictures.h5"
    archive.write_bytes(b"whatever")
    digests = PictureDigests(tmp_path / "memory.json")
    first = digests_of(digests, archive, "1", "2")
    assert first["1"] != first["2"]
    os.utime(archive, ns=(1, 1))
    assert digests_of(digests, archive, "1")["1"] != first["1"]


def test_a_memory_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "a.png").write_bytes(b"a")
    (tmp_path / "file").write_text("no folder")
    digests = PictureDigests(tmp_path / "file" / "memory.json")
    first = digests_of(digests, tmp_path, "a.png")
    assert first == digests_of(tmp_path / "memory.json", tmp_path, "a.png")


def test_texts_differ_by_every_character():
    assert text_digest("é") == text_digest("é") != text_digest("e")
    assert text_digest("a") != text_digest("a ")


def test_a_tokenizer_is_known_by_what_it_does(tiny_tokenizer_dir, tmp_path):
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


def test_tokenizers_without_a_backend_differ_by_their_words():
    digests = {
        tokenizer_digest(SimpleNamespace(get_vocab=lambda words=words: words))
        for words in ({"a": 0, "b": 1}, {"a": 1, "b": 0}, {"b": 1, "a": 0})
    }
    assert len(digests) == 2
