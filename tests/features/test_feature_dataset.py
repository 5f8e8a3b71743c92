"""Batches from stored features."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from epic_pl.data.collate import whole_batch
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.rows import sample_table
from epic_pl.features.dataset import CachedDataset

PATHS = ["a.png", None, "b.png", "a.png"]
TEXTS = ["one", "two", None, "one"]


class Source:
    """Stores whose only feature is the row; rows are positions in the sorted items."""

    def __init__(self, views=0):
        self.views, self.asked = views, []

    def images(self, keys):
        self.asked += [None if key is None else key.view for key in keys]
        rows = torch.tensor([-1 if key is None else ord(key.path[0]) for key in keys])
        return {"pooled": rows[:, None]}

    def texts(self, texts):
        rows = torch.tensor([-1 if text is None else len(text) for text in texts])
        return {"pooled": rows[:, None]}, rows[:, None] > torch.arange(3)


# of a collator, all that is asked for
COLLATOR = SimpleNamespace(labels=lambda rows: torch.tensor([row["label"] for row in rows]))


def rows(tmp_path, paths=PATHS, texts=TEXTS, labels=(0, 1, 2, 0), seed=0) -> ImageTextDataset:
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (4, 4), colour).save(tmp_path / name)
    ids = [f"row {number}" for number in range(len(paths))]
    table = sample_table(ids, paths, texts, labels)
    return ImageTextDataset(table, tmp_path, lambda _: torch.rand(3, 4, 4), seed=seed)


def cached(dataset, views=0, train=True) -> CachedDataset:
    return CachedDataset(dataset, Source(views), COLLATOR, train)


def test_a_batch_is_gathered_in_the_order_asked_for(tmp_path):
    dataset = cached(rows(tmp_path))
    batch = whole_batch(dataset.__getitems__([2, 0, 1]))
    assert len(dataset) == 4
    assert batch["sample_id"] == ["row 2", "row 0", "row 1"]
    assert batch["labels"].tolist() == [2, 0, 1]
    assert batch["image_path"] == ["b.png", "a.png", ""]
    assert batch["image_features"]["pooled"].flatten().tolist() == [ord("b"), ord("a"), -1]
    assert batch["text_features"]["pooled"].flatten().tolist() == [-1, 3, 3]
    assert batch["image_present"].tolist() == [True, True, False]
    assert batch["text_present"].tolist() == [False, True, True]
    assert batch["attention_mask"].sum(dim=1).tolist() == [0, 3, 3]
    assert not {"pixel_values", "input_ids"} & batch.keys()
    assert dataset[2]["sample_id"] == ["row 2"]
    assert dataset.dataset.distinct() == (["a.png", "b.png"], ["one", "two"])


def test_presence_and_labels_are_left_out_where_there_is_nothing_to_say(tmp_path):
    batch = cached(rows(tmp_path)).__getitems__([0, 3])
    assert not {"image_present", "text_present"} & batch.keys()
    unknown = cached(rows(tmp_path, labels=[0, None, 2, 0]))
    assert "labels" not in unknown.__getitems__([0, 1])
    assert unknown.__getitems__([0, 2])["labels"].tolist() == [0, 2]


def drawn(tmp_path, order, epoch=0, seed=0) -> dict[int, int]:
    dataset = cached(rows(tmp_path, ["a.png"] * 40, ["x"] * 40, [0] * 40, seed=seed), views=2)
    dataset.set_epoch(epoch)
    for index in order:
        dataset.__getitems__([index])
    return dict(zip(order, dataset.source.asked, strict=True))


def test_views_depend_on_seed_epoch_and_row_alone(tmp_path):
    order = list(range(40))
    first = drawn(tmp_path, order)
    assert set(first.values()) == {0, 1}
    assert 10 < sum(first.values()) < 30
    torch.rand(7)  # no global state has a say
    np.random.rand(7)  # noqa: NPY002
    assert drawn(tmp_path, order[::-1]) == first
    assert drawn(tmp_path, order, epoch=1) != first
    assert drawn(tmp_path, order, seed=1) != first


@pytest.mark.parametrize(("views", "train"), [(0, True), (3, False)])
def test_evaluation_sees_no_augmented_view(tmp_path, views, train):
    dataset = cached(rows(tmp_path), views, train)
    dataset.__getitems__([0, 1, 2, 3])
    assert dataset.source.asked == [-1, None, -1, -1]


def test_a_view_is_the_same_whenever_it_is_asked_for(tmp_path):
    dataset = rows(tmp_path)
    state = torch.get_rng_state()
    views = [dataset.image("a.png", view) for view in range(3)]
    assert torch.equal(state, torch.get_rng_state())
    dataset.set_epoch(5)
    assert all(torch.equal(dataset.image("a.png", v), views[v]) for v in (2, 0, 1))
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(views[0], dataset.image("b.png", 0))
    assert not torch.equal(views[0], rows(tmp_path, seed=1).image("a.png", 0))
