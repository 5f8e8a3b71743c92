import fabricate
import pytest

import tiny_openmoji
from epic_pl.data import StylesDataModule


@pytest.fixture
def data(monkeypatch, tmp_path) -> StylesDataModule:
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path))
    tiny_openmoji.fill_named_cache(tmp_path)
    encoders = {"image_encoder": "vit_tiny_patch16_224", "text_encoder": "unused"}
    module = StylesDataModule(image_size=32, **encoders)
    module.setup()
    return module


def test_training_shows_one_vendors_drawings_and_test_all_of_the_others(data):
    train, val, test = (data.dataset(split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (57, 3 * 8, 60 * 4)
    shown = {split: set(data.dataset(split).distinct()[0]) for split in ("train", "val", "test")}
    assert shown["train"].isdisjoint(shown["val"])
    assert shown["test"] == shown["train"] | shown["val"]
    assert {
        sample.getpixel((0, 0))[2]
        for sample in (fabricate.raw(test, n)["image"] for n in range(20))
    } == {200}
    assert fabricate.raw(train.images, 0)["image"].getpixel((0, 0))[2] == 100


def test_half_of_the_test_statements_are_the_images_names(data):
    names = {each.code: each.name.lower() for each in data._emoji["test"]}
    rows = data.dataset("test").table.to_pylist()
    assert sum(row["label"] for row in rows) == len(rows) // 2
    for row in rows:
        assert (names[row["image"].removesuffix(".png")] == row["text"]) == row["label"]
