"""The control that trains the last layers of both encoders, from stored tokens."""

import pytest
import torch

import tiny_runs
from controls.last_layers import LastLayers
from tolerance import assert_same

METHODS = [
    LastLayers(interaction_layers=1),
    LastLayers(interaction_layers=1, vectors=True),
]


@pytest.fixture(params=METHODS, ids=lambda method: f"{type(method).__name__}-{method.vectors}")
def module(make, request):
    return make(method=request.param)


def _layers(module, tower):
    names = {name for name, p in tower.encoder.model.named_parameters() if p.requires_grad}
    numbers = {int(part) for name in names for part in name.split(".") if part.isdigit()}
    return names, numbers


def test_the_last_layers_and_the_norm_after_them_are_trained(module):
    image, text = (_layers(module, tower) for tower in module.model.towers)
    last = [tower.encoder.num_layers - 1 for tower in module.model.towers]
    assert [image[1], text[1]] == [{number} for number in last]
    assert {"norm.weight", "norm.bias"} <= image[0]
    count = sum(p.numel() for tower in module.model.towers for p in tower.parameters())
    thawed = sum(
        p.numel() for tower in module.model.towers for p in tower.parameters() if p.requires_grad
    )
    assert 0 < thawed < count / 2
    assert not any("embed" in name for name in (*image[0], *text[0]))
    matrices = any(name.endswith("fc1.weight") for name in image[0])
    assert matrices is not module.method.vectors


def test_a_step_from_stored_tokens_is_one_from_pixels(module):
    module.eval()  # without dropout
    batch = tiny_runs.batch()
    stored = {key: batch[key] for key in ("attention_mask", "labels", "sample_id")}
    inputs = batch["pixel_values"], batch["input_ids"]
    masks = None, batch["attention_mask"].bool()
    for name, tower, given, mask in zip(
        ("image", "text"), module.model.towers, inputs, masks, strict=True
    ):
        with torch.no_grad():
            stored[f"{name}_features"] = tower.features(given, mask, "tokens")
    gradients = []
    for each in (batch, stored):
        module.zero_grad()
        output = module(each)
        output.logits.square().sum().backward()
        gradients.append({n: p.grad for n, p in module.named_parameters() if p.grad is not None})
    assert any(name.startswith("model.image_tower.encoder.") for name in gradients[0])
    assert_same(gradients[1], gradients[0])
