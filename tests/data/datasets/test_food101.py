import csv
from collections import Counter

import fabricate
import pytest

from epic_pl.data import Food101DataModule
from epic_pl.utils.errors import ConfigError


def _data(root, **options):
    options = fabricate.ENCODERS | {"val_size": 3} | options
    return Food101DataModule(data_dir=str(root), **options)


def _rows(data, split):
    return {row["sample_id"]: row for row in fabricate.rows_of(data, split)}


TEXTS = {
    "titles": {
        "waffles_5": "",
        "waffles_4": 'Grandma\'s "waffles_4",\nwith love, | allrecipes.com',
    },
    "jsonl": {"train/apple_pie_1.jpg": "text of apple_pie_1.jpg"},
}


@pytest.mark.parametrize("source", TEXTS)
def test_every_source_gives_its_texts_and_the_same_images_splits_and_classes(tmp_path, source):
    fabricate.food101(tmp_path, source)
    data = _data(tmp_path, text_source=source)
    # before setup; alphabetical although the titles have another order
    assert data.class_names == ["apple_pie", "baby_back_ribs", "waffles"]
    parts = [_rows(data, split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [15, 3, 6]
    assert len(set().union(*parts)) == 24
    texts = {name: row["text"] for part in parts for name, row in part.items()}
    assert texts.items() >= TEXTS[source].items()
    for part in parts:
        assert set(Counter(row["label"] for row in part.values()).values()) == {len(part) // 3}
        for name, row in part.items():
            assert row["image"].size == (40, 36)
            assert name.rpartition("/")[2].startswith(data.class_names[row["label"]])
    assert all(name.rpartition("_")[2][0] in "67" for name in parts[2])
    assert data.text_origin == source


def test_the_held_out_rows_depend_on_split_seed_only(tmp_path):
    fabricate.food101(tmp_path, "titles")
    reference = list(_rows(_data(tmp_path), "val"))
    assert list(_rows(_data(tmp_path, seed=5), "val")) == reference
    assert any(list(_rows(_data(tmp_path, split_seed=s), "val")) != reference for s in (1, 2, 3))
    # nor on the order of the rows in the file
    _edit_csv(tmp_path / "texts" / "train_titles.csv", lambda rows: rows[::2] + rows[1::2])
    assert list(_rows(_data(tmp_path), "val")) == reference


def _edit_csv(path, edit):
    with path.open(newline="") as file:
        rows = edit(list(csv.reader(file)))
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.mark.parametrize("name", ["dev", "val", "unused"])
def test_a_validation_list_is_used_and_without_one_rows_are_held_out(tmp_path, name):
    fabricate.food101(tmp_path, "jsonl")
    (tmp_path / "dev.jsonl").rename(tmp_path / f"{name}.jsonl")
    val = _rows(_data(tmp_path, text_source="jsonl", val_size=2), "val")
    if name == "unused":
        assert len(val) == 2
    else:
        images = [key.removeprefix("train/").removesuffix(".jpg") for key in val]
        assert images == [f"{dish}_0" for dish in fabricate.DISHES]


@pytest.mark.parametrize(("nested", "images"), [("food101", "images"), ("", "images/images")])
def test_folders_that_archives_add_are_found(tmp_path, nested, images):
    fabricate.food101(tmp_path / nested, "titles", images=images)
    assert len(_rows(_data(tmp_path), "test")) == 6


@pytest.mark.parametrize("options", [{"text_source": "html"}, {"val_size": 0}, {"split_seed": -1}])
def test_options_out_of_range_are_refused(tmp_path, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        _data(tmp_path, **options)
