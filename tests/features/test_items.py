"""What the stores of images and texts are known by: each thing that features depend on."""

import pytest
import torch

import tiny_runs
from epic_pl.features import items
from epic_pl.features.items import Images, Texts


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
        return images.request().spec.key, texts.request().spec.key

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
        ({"level": "boundary"}, BOTH),
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
    [("FEATURES_VERSION", 0, BOTH), ("tokenizer_digest", lambda tokenizer: "another", TEXTS)],
)
def test_a_store_is_another_one_for_another_version_or_tokenizer(
    name, value, others, keys, monkeypatch
):
    before = keys()
    monkeypatch.setattr(items, name, value)
    differ = [one != other for one, other in zip(before, keys(), strict=True)]
    assert differ == [side in others for side in (0, 1)]
