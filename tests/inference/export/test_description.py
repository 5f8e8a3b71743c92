"""model.json of modules that were trained without a DataModule of this package."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from epic_pl.inference.export.folder import describe


@pytest.fixture
def described(make):
    def described(preprocessing, tokenizer=None):
        module = make(method="LinearProbe", preprocessing=preprocessing)
        return json.loads(json.dumps(asdict(describe(module, tokenizer))))

    return described


@pytest.mark.parametrize("own", [None, {"library": "mine"}, {"image": 3}])
def test_the_preprocessing_of_another_pipeline_is_passed_on_unchanged(own, described):
    description = described(own)
    assert description["own_preprocessing"] == own
    assert description["preprocessing"] is None
    assert description["tokenizer"] is None
    assert description["inputs"]["pixel_values"]["shape"] == ["B", 3, 32, 32]


def test_texts_are_no_longer_than_the_tokenizer_takes(described):
    image = {"size": 32, "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear"}
    text = {"max_tokens": 200, "clean": True}
    tokenizer = SimpleNamespace(model_max_length=64, pad_token="[PAD]", truncation_side="left")
    description = described({"image": image | {"crop_pct": 0.875}, "text": text}, tokenizer)
    expected = {"clean": True, "max_tokens": 64, "pad_token": "[PAD]", "padded": False}
    expected |= {"truncation_side": "left", "prompt": "", "tokenizer": ""}
    assert description["preprocessing"]["text"] == expected
    assert description["preprocessing"]["image"]["crop_pct"] == 0.875
    assert description["tokenizer"] == "tokenizer"
