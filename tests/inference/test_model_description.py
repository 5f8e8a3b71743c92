"""Each edit of ``model.json`` is one error that names file and entry, or changes no answer."""

import json
from copy import deepcopy
from dataclasses import asdict

import numpy as np
import pytest
import torch

import tiny_onnx
from epic_pl.inference.description import INPUTS, Description, model_inputs
from epic_pl.inference.exported import ExportedModel
from epic_pl.utils.errors import CheckpointError, ConfigError
from epic_pl.utils.types import Batch

SIZE = 8
IMAGE = {"size": SIZE, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
ENCODER = {"name": "tiny", "revision": None, "fingerprint": "0"}
ABOUT = {
    "format_version": 1,
    "task": "multilabel",
    "class_names": ["blue", "green", "red"],
    "thresholds": [0.5, 0.4, 0.3],
    "temperature": 1.5,
    "method": "EPIC",
    "never_missing": ["image"],
    "inputs": model_inputs(SIZE, SIZE),
    "preprocessing": {
        "image": {**IMAGE, "crop_pct": 0.9, "resize": "crop"},
        "text": {"max_tokens": 16, "clean": False},
    },
    "tokenizer": "tokenizer",
    "image_encoder": {**ENCODER},
    "text_encoder": {**ENCODER},
    "versions": {"epic_pl": "0.1.0"},
    "own_preprocessing": None,
}


@pytest.fixture
def exported(tmp_path):
    """Writes a description beside an ONNX model."""
    tiny_onnx.write_onnx(tmp_path / "model.onnx", SIZE)

    def write(about):
        (tmp_path / "model.json").write_text(json.dumps(about))
        return tmp_path

    return write


def changed(path, value):
    """The description with another value of an entry; ``...`` removes it."""
    about = deepcopy(ABOUT)
    *outer, last = path.split(".")
    entry = about
    for key in outer:
        entry = entry[key]
    if value is ...:
        del entry[last]
    else:
        entry[last] = value
    return about


def scores_of(model):
    mask = torch.ones(2, 3, dtype=torch.long)
    batch = Batch(pixel_values=torch.zeros(2, 3, SIZE, SIZE), input_ids=mask, attention_mask=mask)
    return model.probabilities(batch)


BAD = [
    *(("format_version", value) for value in (..., 2, "1", True)),
    *(("task", value) for value in (..., "regression", None, "multiclass", 3, [])),
    *(("class_names", value) for value in (..., ["a", "b"], "abc", ["a"], [], [1, 2, 3], None)),
    *(("class_names", value) for value in (["a", "a", "b"], ["a", "b", "c", "d"], {"a": 1})),
    *(("thresholds", value) for value in (..., None, [0.5], 0.5, [0.5, 0.5, "x"], [0.5, 0.5, 2])),
    *(("thresholds", value) for value in ([0.5, float("nan"), 0.5], [0.5, 0.5, True], [-1, 1, 1])),
    *(("temperature", value) for value in (..., 0, -1, "1", float("inf"), None)),
    *(("method", value) for value in (..., 3)),
    *(("never_missing", value) for value in (..., ["sound"], "image", None, [1])),
    *(("inputs", value) for value in (..., {}, model_inputs(9, 9), model_inputs(8, 9), "x")),
    ("inputs.pixel_values.shape", ["B", 1, SIZE, SIZE]),
    ("inputs.input_ids", ...),
    ("preprocessing", {}),
    *(("preprocessing.image", value) for value in (..., 3, {})),
    *(("preprocessing.image.size", value) for value in (..., 0, -1, 9, 10**9, "8", 8.0, True)),
    *(("preprocessing.image.mean", value) for value in (..., [0.5], "abc", [0, 0, None], 3)),
    *(("preprocessing.image.std", value) for value in (..., [0, 1, 1], [1, 1, float("nan")])),
    *(("preprocessing.image.interpolation", value) for value in (..., "area", None, [])),
    *(("preprocessing.image.crop_pct", value) for value in (..., 0, -1, 1e-9, float("nan"), "1")),
    *(("preprocessing.image.resize", value) for value in (..., "stretch")),
    *(("preprocessing.text", value) for value in (..., None, "x")),
    *(("preprocessing.text.max_tokens", value) for value in (..., 0, -5, 1.5, "16", True)),
    *(("preprocessing.text.clean", value) for value in (..., "no", 1)),
    *(("tokenizer", value) for value in (..., "../tokenizer", 3)),
    *(("image_encoder", value) for value in (..., None, {"name": "x"}, {**ENCODER, "name": 3})),
    ("text_encoder.fingerprint", ...),
    *(("versions", value) for value in (..., "1", {"torch": 2})),
    ("treshold", [0.1]),
]
HARMLESS = [
    *(("temperature", 3), ("method", "Parts"), ("versions", {}), ("tokenizer", None)),
    *(("own_preprocessing", {"library": "mine"}), ("image_encoder.name", "moved")),
    *(("preprocessing.image.unknown", 3), ("preprocessing.text.source", "a column")),
]


@pytest.mark.parametrize(("entry", "value"), BAD, ids=str)
def test_a_damaged_description_is_one_error_that_names_file_and_entry(entry, value, exported):
    folder = exported(changed(entry, value))
    with pytest.raises(CheckpointError) as raised:
        ExportedModel(folder)
    said = str(raised.value)
    assert str(folder / "model.json") in said
    assert entry.partition(".")[0] in said
    outer, _, last = entry.partition("preprocessing.")[2].rpartition(".")
    assert not outer or last in said
    assert "Export the model again" in said


@pytest.mark.parametrize(("entry", "value"), HARMLESS, ids=str)
def test_what_is_only_shown_may_be_anything_of_its_type(entry, value, exported):
    sound, other = (ExportedModel(exported(about)) for about in (ABOUT, changed(entry, value)))
    np.testing.assert_array_equal(scores_of(other), scores_of(sound))
    assert other.class_names == sound.class_names
    assert other.thresholds.tolist() == sound.thresholds.tolist()


@pytest.mark.parametrize("content", ["", "[]", "null", '"x"', "{", "[" * 100_000])
def test_what_is_no_description_is_one_error(content, exported):
    folder = exported(ABOUT)
    (folder / "model.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"model\.json.*Export the model again"):
        ExportedModel(folder)


def test_the_same_check_is_made_before_a_description_is_written():
    with pytest.raises(ConfigError, match="class_names has 'a' twice"):
        Description(**changed("class_names", ["a", "b", "a"]))
    with pytest.raises(ConfigError, match=r"join labels by \|: rename the class 'b\|c'"):
        Description(**changed("class_names", ["a", "b|c", "d"]))
    assert asdict(Description(**ABOUT)) == ABOUT
    assert tuple(ABOUT["inputs"]) == INPUTS


def test_a_model_of_other_classes_than_its_description_is_refused(exported):
    names = {"class_names": ["a", "b"], "thresholds": [0.5, 0.5]}
    folder = exported(ABOUT | names)
    with pytest.raises(
        CheckpointError, match=r"class_names has 2 entries, but .*model\.onnx gives"
    ):
        ExportedModel(folder)


def test_a_model_that_cannot_run_is_named(exported):
    wrong = model_inputs(9, 9)
    with pytest.raises(CheckpointError, match=r"model\.onnx cannot be run"):
        ExportedModel(exported(ABOUT | {"inputs": wrong, "preprocessing": None}))
