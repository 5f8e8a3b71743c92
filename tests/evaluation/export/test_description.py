"""model.json of modules that were trained without a DataModule of this package."""

import json
from types import SimpleNamespace

import pytest

import tiny_runs
from epic_pl.evaluation.export.folder import describe

IMAGE = {"size": 32, "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear"}
OURS = {"image": {**IMAGE, "crop_pct": 0.875}, "text": {"max_tokens": 200, "clean": True}}


@pytest.fixture
def make(tiny_vit_dir, tiny_tokenizer_dir):
    def build(**options):
        return tiny_runs.module(tiny_vit_dir, tiny_tokenizer_dir, method="linear_probe", **options)

    return build


@pytest.mark.parametrize("own", [None, {"library": "mine"}, {"image": 3}])
def test_unknown_preprocessing_is_passed_on_unchanged(own, make):
    described = json.loads(json.dumps(describe(make(preprocessing=own), None)))
    assert described["preprocessing"] == own
    assert described["tokenizer"] is None
    assert described["inputs"]["pixel_values"]["shape"] == ["B", 3, 32, 32]


def test_texts_are_no_longer_than_the_tokenizer_takes(make):
    described = describe(make(preprocessing=OURS), SimpleNamespace(model_max_length=64))
    assert described["preprocessing"]["text"] == {"max_tokens": 64, "clean": True}
    assert described["preprocessing"]["image"]["resize"] == 36  # 32 / 0.875, floored as in timm
    assert described["tokenizer"] == "tokenizer"
