"""What the stores of images and texts are known by: each thing that features depend on."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import image_encoder, make, token_ids

import tiny_runs
from epic_pl.data.processor import Processor
from epic_pl.features.items import Images, Texts
from epic_pl.features.store.spec import FEATURES_VERSION


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
        images = Images(module.model.image_tower, *shared, 1)
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
        ({"data": {"text_prompt": "title: "}}, TEXTS),
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
        ("features.store.spec.FEATURES_VERSION", 0, BOTH),
        ("data.processor.Processor._digest", lambda processor: "another", TEXTS),
    ],
)
def test_a_store_is_another_one_for_another_version_or_tokenizer(
    name, value, others, keys, monkeypatch
):
    before = keys()
    monkeypatch.setattr(f"epic_pl.{name}", value)
    differ = [one != other for one, other in zip(before, keys(), strict=True)]
    assert differ == [side in others for side in (0, 1)]


# sums of what FEATURES_VERSION makes of the inputs below, to be recorded anew with each version
PREPARED = {
    "version": 7,
    **{"crop": -23.167, "pad": -168.743, "squash": 165.988, "texts": 485.523},
    **{"tokens, image tokens": -60.008, "tokens, text tokens": -10.659},
    **{"layers, image memory": 8.690, "layers, image cells": -24.797},
    **{"layers, image output": -4.218, "layers, image boundary": 4.321},
    **{"layers, text memory": 13.732, "layers, text tokens": -10.659},
    **{"layers, text output": -9.015, "layers, text boundary": 1.083},
}


def summed(tensor) -> float:
    """A sum with another weight for each number, so that it changes with values and order."""
    numbers = tensor.double().flatten()
    return float(numbers @ torch.arange(1, len(numbers) + 1).double().sin())


def test_inputs_and_stored_fields_change_with_the_version_alone(tiny_vit_dir, tiny_tokenizer_dir):
    """Stores, checkpoints and exported scripts of one version prepare their inputs alike.

    If this fails, raise FEATURES_VERSION and record the sums. The script of exported models follows
    by ``test_predict_py_prepares_inputs_as_the_package_does``.
    """
    row, column, channel = np.indices((50, 90, 3))
    image = Image.fromarray((row * 7 + column * 13 + channel * 31).astype(np.uint8))
    sums = {"version": FEATURES_VERSION}
    for resize in ("crop", "pad", "squash"):
        options = {"resize": resize, "clean_text": True, "max_text_tokens": 12}
        processor = Processor.from_encoders(str(tiny_vit_dir), str(tiny_tokenizer_dir), **options)
        given = [image, image.resize((20, 90)), image.crop((0, 0, 90, 10)), None]
        texts = ["a <b>red</b> Square &amp; more", "", None, "blue " * 20]
        prepared = processor(images=given, text=texts)
        sums[resize] = summed(prepared["pixel_values"])
        sums["texts"] = summed(prepared["input_ids"] * (1 + prepared["attention_mask"]))
    model = make("EPIC", image_encoder(img_size=96), prompt_attention="read_only")
    pixels = torch.linspace(-2, 2, 2 * 3 * 96**2).sin().double().view(2, 3, 96, 96)
    ids, mask = token_ids([5, 3])
    for level in model.cache_levels:
        fields = model.image_tower.features(pixels, None, level)
        sums |= {f"{level}, image {name}": summed(field) for name, field in fields.items()}
        fields = model.text_tower.features(ids, mask.bool(), level)
        sums |= {f"{level}, text {name}": summed(field) for name, field in fields.items()}
    assert sums == pytest.approx(PREPARED, rel=1e-3, abs=0.01)
