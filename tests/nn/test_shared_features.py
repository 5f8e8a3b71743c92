"""Features of several towers from one pass of their encoder."""

import pytest
import torch
from tiny_models import batch, image_encoder, make, text_encoder

from epic_pl.nn.towers import shared_features

READ_ONLY = {"prompt_attention": "read_only"}


@pytest.fixture
def models():
    """Methods that read different layers of encoders with equal weights, of five layers."""
    cases = [
        ("EPIC", {"interaction_layers": [[3, 4]], "first_prompt": "independent"}),
        ("EPIC", {"interaction_layers": [[1, 0], [3, 2], [4, 4]]}),
        ("EPIC", {"interaction_layers": [[1, 0], [3, 2], [4, 4]]}),
        ("Parts", {"interaction_layers": 3}),
        ("LinearProbe", {"interaction_layers": 3}),
    ]
    encoders = [(image_encoder(5), text_encoder(5)) for _ in cases]
    return [
        make(name, *pair, **READ_ONLY, **epic)
        for (name, epic), pair in zip(cases, encoders, strict=True)
    ]


@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_they_are_those_of_each_tower_and_each_layer_runs_once(models, side, precision):
    towers = [getattr(model.float(), f"{side}_tower") for model in models]
    made = batch([4, 2, 3], dtype=torch.float32)
    mask = made["attention_mask"].bool() if side == "text" else None
    inputs = made["input_ids" if side == "text" else "pixel_values"]
    for tower in towers:
        tower.encoder.precision = precision
    expected = [tower.features(inputs, mask, "layers") for tower in towers]

    ran, encoder = [], towers[0].encoder
    for tower in towers:
        tower.encoder = encoder
    layer, memory = encoder._layer, encoder.memory
    encoder._layer = lambda index, *rest: (ran.append(index), layer(index, *rest))[1]
    encoder.memory = lambda index, *rest: (ran.append(f"m{index}"), memory(index, *rest))[1]
    shared = shared_features(towers, inputs, mask)
    read = {index for tower in towers if tower.needs_memory for index in tower.layers}
    assert sorted(map(str, ran)) == sorted(["0", "1", "2", "3", "4", *(f"m{i}" for i in read)])

    for own, one in zip(expected, shared, strict=True):
        assert own.keys() == one.keys()
        for name, value in own.items():
            assert torch.equal(one[name], value)
    assert shared[1] is shared[2]
    assert shared[1] is not shared[0]


def test_states_hold_tokens_where_the_method_reads_them_later(models):
    made = batch([4, 2, 3])
    for model in models:
        states = model.extract(made, model.presence(made))
        reads = model.image_tower.keeps_tokens
        assert [state.tokens is not None for state in states] == [reads] * 2
    assert {model.image_tower.keeps_tokens for model in models} == {True, False}
