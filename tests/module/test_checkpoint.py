import math

import pytest
import torch
import torch.nn.functional as F

from epic_pl.module.checkpoint import (
    CHECKPOINT_FORMAT,
    CHECKPOINT_KEY,
    adapter_state,
    check_classes,
    check_encoder,
    check_preprocessing,
    complete_state,
    require_info,
    with_new_classes,
)
from epic_pl.utils.errors import CheckpointError


@pytest.fixture
def model(make):
    return make(options={"interaction_layers": 3}).model


KEY = "hubs.1.down_image.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weight: {}, ["lacks"]),
        (lambda weight: {"hubs.9.up": weight}, ["lacks", "hubs.9.up", "unknown"]),
        (lambda weight: {KEY: weight[:-1]}, ["shape", "(7, 32)", "(8, 32)"]),
        (lambda weight: {KEY: weight.long()}, ["an integer", "a floating-point"]),
        (lambda weight: {KEY: weight.to_sparse()}, ["a tensor that is sparse"]),
        (lambda weight: {KEY: F.pad(weight[:, :-1], (0, 1), value=math.nan)}, ["NaN"]),
        (lambda weight: {KEY: F.pad(weight[:, :-1], (0, 1), value=math.inf)}, ["1e+15"]),
        (lambda weight: {KEY: F.pad(weight[:, :-1], (0, 1), value=-1e30)}, ["1e+15"]),
    ],
    ids=["missing", "renamed", "misshapen", "integer", "sparse", "nan", "inf", "huge"],
)
def test_what_does_not_fit_is_refused_by_name(model, change, words):
    adapter = adapter_state(model, model.state_dict())
    adapter |= change(adapter.pop(KEY))
    with pytest.raises(CheckpointError) as error:
        complete_state(model, adapter)
    for word in [KEY, *words]:
        assert word in str(error.value)


@pytest.mark.parametrize("place", ["model.head.classifier", "loss.margins", "postprocessor"])
def test_weights_of_known_classes_go_to_their_rows_among_more_classes(place):
    saved, new = torch.tensor([1.0, 2.0]), torch.zeros(3)
    adapter = {f"{place}.weight": saved, "model.prompts.first": saved}
    widened = with_new_classes(adapter, dict.fromkeys(adapter, new), ["a", "c"], ["a", "b", "c"])
    assert widened[f"{place}.weight"].tolist() == [1, 0, 2]
    assert widened["model.prompts.first"] is saved  # two prompts are not two classes


def test_a_checkpoint_cannot_bring_encoder_weights(model):
    with pytest.raises(CheckpointError, match=r"encoder\.model.*unknown"):
        complete_state(model, dict(model.state_dict()))


def test_an_encoder_is_known_by_its_weights_and_another_is_refused_by_name():
    bert = {"name": "bert", "revision": "rev1", "fingerprint": "a" * 64}
    check_encoder("text", bert, bert | {"name": "./bert", "revision": None})
    with pytest.raises(CheckpointError) as error:
        check_encoder("text", bert, {"name": "roberta", "revision": None, "fingerprint": "b" * 64})
    for word in ("text encoder", "'bert'", "rev1", "a" * 12, "'roberta'", "b" * 12):
        assert word in str(error.value)


PREPARED = {
    "image": {"size": 32, "resize": "crop"},
    "text": {"max_tokens": 64, "clean": False, "prompt": ""},
}


@pytest.mark.parametrize(
    ("side", "name", "option"),
    [("image", "resize", "resize"), ("text", "clean", "clean_text"), ("text", "prompt", "text_p")],
)
def test_each_option_of_preprocessing_is_compared(side, name, option):
    here = {**PREPARED, side: PREPARED[side] | {name: "other"}}
    said = rf"trained with data\.{option}\w* {PREPARED[side][name]!r}, but this data has 'other'"
    with pytest.raises(CheckpointError, match=said):
        check_preprocessing(PREPARED, here)


def test_info_is_required_and_other_formats_are_refused():
    identity = {"name": "vit", "revision": None, "fingerprint": "ab"}
    info = {
        "format_version": CHECKPOINT_FORMAT,
        "module": "EPICModule",
        "image_encoder": identity,
        "text_encoder": identity,
    }
    assert require_info({CHECKPOINT_KEY: info}) is info
    with pytest.raises(CheckpointError, match="calibration_rows is damaged: 'many'"):
        require_info({CHECKPOINT_KEY: info | {"calibration_rows": "many"}})
    with pytest.raises(CheckpointError, match=r"^own\.ckpt is not a checkpoint of EPICModule"):
        require_info({"state_dict": {}}, "own.ckpt")
    for other in (CHECKPOINT_FORMAT - 1, CHECKPOINT_FORMAT + 1):
        with pytest.raises(CheckpointError, match=f"format {other}, .* reads format"):
            require_info({CHECKPOINT_KEY: {"format_version": other}})
    # found by make fuzz: tensors, which cannot be compared, in place of plain values
    for other in (torch.zeros(2), torch.eye(2).to_sparse(), None):
        with pytest.raises(CheckpointError, match=r"(?s)format .*, .* reads format"):
            require_info({CHECKPOINT_KEY: {"format_version": other}})
        damaged = {**info, "text_encoder": {**identity, "revision": torch.zeros(2), "name": other}}
        with pytest.raises(CheckpointError, match="text_encoder is damaged"):
            require_info({CHECKPOINT_KEY: damaged})


def test_class_names_must_agree_in_order_where_both_sides_have_some():
    names, task = [f"c{number}" for number in range(9)], "multiclass"
    for saved, here in ((names, names), (None, names), (names, None)):
        check_classes((task, saved), ("multilabel" if saved is not here else task, here), "")
    for other, here, told in (
        (task, [*names[:6], "lime"], "7 classes: lime"),
        (task, [*names, "c9"], "10 classes: c0, c1, c2, c3 and 6 more"),
        ("multilabel", names, "9 classes: c0, c1, c2, c3 and 5 more"),
    ):
        before = "c6, c7, c8" if "lime" in here else "c0, c1, c2, c3 and 5 more"
        said = rf"mine .*\({task}, 9 classes: {before}\) than the data's \({other}, {told}\)"
        said += rf", shown from number {6 if 'lime' in here else 0} on"
        with pytest.raises(CheckpointError, match=said):
            check_classes((task, names), (other, here), "mine")
