"""model.json of modules that were trained without a DataModule of this package."""

import json
from types import SimpleNamespace

import pytest

import tiny_runs
from epic_pl.evaluation.export.folder import describe

IMAGE = {"size": 32, "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear"}
OURS = {"image": {**IMAGE, "crop_pct": 0.875}, "text": {"max_tokens": 200, "clean": True}}


def _described(encoders, preprocessing, tokenizer=None):
    module = tiny_runs.module(*encoders, method="linear_probe", preprocessing=preprocessing)
    return json.loads(json.dumps(describe(module, tokenizer)))


@pytest.mark.parametrize("own", [None, {"library": "mine"}, {"image": 3}])
def test_unknown_preprocessing_is_passed_on_unchanged(own, tiny_vit_dir, tiny_tokenizer_dir):
    described = _described((tiny_vit_dir, tiny_tokenizer_dir), own)
    assert described["preprocessing"] == own
    assert described["tokenizer"] is None
    assert described["inputs"]["pixel_values"]["shape"] == ["B", 3, 32, 32]


def test_texts_are_no_longer_than_the_tokenizer_takes(tiny_vit_dir, tiny_tokenizer_dir):
    tokenizer = SimpleNamespace(model_max_length=64, pad_token_id=3)
    described = _described((tiny_vit_dir, tiny_tokenizer_dir), OURS, tokenizer)
    assert described["preprocessing"]["text"] == {
        "max_tokens": 64,
        "clean": True,
        "pad_id": 3,
    }
    assert described["preprocessing"]["image"]["resized"] == 36  # 32 / 0.875, floored as in timm
    assert described["tokenizer"] == "tokenizer"
