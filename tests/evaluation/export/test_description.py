"""What model.json says of modules that no DataModule of this package has met."""

import json
from types import SimpleNamespace

import pytest
import torch

import tiny_runs
from epic_pl.evaluation.export.description import describe, picture_size

OURS = {
    "image": {
        "size": 32,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "interpolation": "bilinear",
        "crop_pct": 0.875,
    },
    "text": {"max_tokens": 200, "clean": True},
}


@pytest.fixture
def make(tiny_vit_dir, tiny_tokenizer_dir):
    def build(**options):
        return tiny_runs.module(tiny_vit_dir, tiny_tokenizer_dir, method="linear_probe", **options)

    return build


@pytest.mark.parametrize(
    "own", [None, {"library": "mine"}, {"image": {"pixels": 32}}, {"image": 3}]
)
def test_somebodys_own_preprocessing_is_handed_on_as_it_is(own, make):
    module = make(preprocessing=own)
    said = json.loads(json.dumps(describe(module, None)))
    assert said["preprocessing"] == own
    assert said["tokenizer"] is None
    assert said["inputs"]["pixel_values"]["shape"] == ["B", 3, 32, 32]


def test_pictures_have_the_size_that_was_asked_for(make):
    assert picture_size(make()) == (32, 32)
    assert picture_size(make(image_size=24)) == (24, 24)


def test_texts_are_as_long_as_the_tokenizer_takes(make):
    said = describe(make(preprocessing=OURS), SimpleNamespace(model_max_length=64))
    assert said["preprocessing"]["text"] == {"max_tokens": 64, "clean": True}
    assert said["preprocessing"]["image"]["resize"] == 36  # 32 / 0.875, floored as in timm
    assert said["tokenizer"] == "tokenizer"


def test_without_calibration_there_is_no_temperature_and_thresholds_move_along(make):
    modules = [make(task="multilabel", calibrate=calibrate) for calibrate in (True, False)]
    for module in modules:
        module.calibration_temperature.fill_(2.0)
        module.thresholds.copy_(torch.tensor([0.3, 0.5, 0.8]))
    with_it, without = (describe(module, None) for module in modules)
    assert (with_it["temperature"], without["temperature"]) == (2.0, 1.0)
    assert with_it["thresholds"] == pytest.approx([0.3, 0.5, 0.8])
    moved = (torch.tensor([0.3, 0.5, 0.8]).logit() * 2).sigmoid().tolist()
    assert without["thresholds"] == pytest.approx(moved)
