"""The vectorised methods against the loop-written ones, in float64."""

import pytest
import slow_methods
import torch
from tiny_models import batch, image_encoder, randomise, text_encoder

from epic_pl.nn import EPICConfig, HeadConfig, Pair
from epic_pl.nn.methods import build_method

ALL_PARTS = HeadConfig(boundary=True, similarity=True, unimodal=True)
PRESENCE = {
    "all present": (None, None),
    "mixed": ([1, 0, 1], [0, 1, 1]),
    "no image": ([0, 0, 0], [1, 1, 1]),
    "no text": ([1, 1, 1], [0, 0, 0]),
}
CASES = {
    "linear_probe": ("linear_probe", {}, None, slow_methods.linear_on_pooled),
    "no_prompts": ("no_prompts", {}, ALL_PARTS, slow_methods.linear_on_pooled),
    "full": ("full", {}, ALL_PARTS, slow_methods.linear_on_pooled),
    "mlp": ("late_fusion_mlp", {"hidden": 7}, None, slow_methods.mlp_on_pooled),
    "pmf": ("pmf", {}, None, slow_methods.pmf, 2),
    "pmf, all layers": (
        "pmf",
        {"fusion_layers": 3, "query_prompts": 1, "query_context_prompts": 2},
        None,
        slow_methods.pmf,
        3,
    ),
    "pmf, no context": (
        "pmf",
        {"query_context_prompts": 0, "fusion_context_prompts": 0},
        None,
        slow_methods.pmf,
        2,
    ),
    "maple": ("maple", {"prompt_depth": 2, "num_prompts": 2}, None, slow_methods.maple),
    "maple, first layer": ("maple", {"prompt_depth": 1}, None, slow_methods.maple),
}


def make(case, image_layers=3, text_layers=3):
    name, options, head, *reference = CASES[case]
    encoders = Pair(image_encoder(image_layers), text_encoder(text_layers))
    epic = EPICConfig(interaction_layers=2)
    return randomise(build_method(name, encoders, 5, epic, head, options=options)), reference


@pytest.mark.parametrize("presence", PRESENCE.values(), ids=PRESENCE.keys())
@pytest.mark.parametrize("case", CASES)
def test_agrees(case, presence):
    (model, (reference, *rest)), made = make(case), batch([5, 1, 3], *presence)
    with torch.no_grad():
        got = model(made)
    expected = slow_methods.logits(reference, model, made, *rest)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("depths", [(2, 4), (4, 2)])
@pytest.mark.parametrize("case", ["pmf", "maple"])
def test_agrees_with_encoders_of_different_depth(case, depths):
    (model, (reference, *rest)), made = make(case, *depths), batch([4, 2], [1, 0], [1, 1])
    with torch.no_grad():
        got = model(made)
    expected = slow_methods.logits(reference, model, made, *rest)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("case", "part"),
    [
        ("mlp", "head.classifier.3.weight"),
        ("pmf", "image_prompts.maps.0.0.weight"),
        ("pmf", "text_prompts.query_context"),
        ("pmf", "text_prompts.fusion_context"),
        ("maple", "prompts.couplings.1.weight"),
    ],
)
def test_the_reference_notices_a_changed_weight(case, part):
    # a reference that agreed with any weights would prove nothing
    (model, (reference, *rest)), made = make(case), batch([4, 2])
    before = slow_methods.logits(reference, model, made, *rest)
    model.get_parameter(part).data *= 1.01
    after = slow_methods.logits(reference, model, made, *rest)
    assert (before - after).abs().max() > 1e-7
