"""Batches from stored features."""

from types import SimpleNamespace

import torch
from PIL import Image

from epic_pl.data.collate import whole_batch
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.rows import sample_table
from epic_pl.features.dataset import CachedDataset

PATHS = ["a.png", None, "b.png", "a.png"]
TEXTS = ["one", "two", None, "one"]


class Images:
    """Stored items whose only feature is the first letter of the path."""

    def gather(self, keys):
        rows = torch.tensor([-1 if key is None else ord(key.path[0]) for key in keys])
        return {"pooled": rows[:, None]}


class Texts:
    """Stored items whose only feature is the number of letters."""

    def gather(self, texts):
        rows = torch.tensor([-1 if text is None else len(text) for text in texts])
        return {"pooled": rows[:, None], "mask": rows[:, None] > torch.arange(3)}


# of a collator, all that is asked for
COLLATOR = SimpleNamespace(labels=lambda rows: torch.tensor([row["label"] for row in rows]))


def rows(tmp_path, paths=PATHS, texts=TEXTS, labels=(0, 1, 2, 0)) -> ImageTextDataset:
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (4, 4), colour).save(tmp_path / name)
    ids = [f"row {number}" for number in range(len(paths))]
    table = sample_table(ids, paths, texts, labels)
    return ImageTextDataset(table, tmp_path, lambda _: torch.rand(3, 4, 4))


def cached(dataset) -> CachedDataset:
    return CachedDataset(dataset, Images(), Texts(), COLLATOR)


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
