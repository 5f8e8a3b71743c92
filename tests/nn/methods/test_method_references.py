"""The vectorised methods against the loop-written ones, in float64."""

import pytest
import slow_methods
from tiny_models import ALL_PARTS, PRESENCE, batch, image_encoder, logits, make, text_encoder

from tolerance import assert_same

FEW_PROMPTS = {"fusion_layers": 3, "num_prompts": 1}
CASES = {
    "linear_probe": ("LinearProbe", {}, None, slow_methods.head_on_pooled),
    "no_prompts": ("NoPrompts", {}, ALL_PARTS, slow_methods.head_on_pooled),
    "full": ("FullFineTuning", {}, ALL_PARTS, slow_methods.head_on_pooled),
    "mlp": ("LateFusionMLP", {}, ALL_PARTS, slow_methods.head_on_pooled),
    "parts": ("Parts", {}, ALL_PARTS, slow_methods.parts_in_patches),
    "parts, alone": ("Parts", {}, None, slow_methods.parts_in_patches),
    "pmf": ("PMF", {}, None, slow_methods.pmf, 2),
    "pmf, all layers": ("PMF", FEW_PROMPTS, None, slow_methods.pmf, 3),
    "maple": ("MaPLe", {"prompt_depth": 2, "num_prompts": 2}, None, slow_methods.maple),
    "maple, first layer": ("MaPLe", {"prompt_depth": 1}, None, slow_methods.maple),
}


def build(case, image_layers=3, text_layers=3):
    """The model, and its reference as a function of a batch."""
    name, options, head, reference, *rest = CASES[case]
    encoders = image_encoder(image_layers), text_encoder(text_layers)
    model = make(name, *encoders, head=head, **options)
    return model, lambda made: slow_methods.logits(reference, model, made, *rest)


@pytest.mark.parametrize("case", CASES)
def test_agrees(case):
    model, reference = build(case)
    for presence in PRESENCE.values():
        made = batch([5, 1, 3], *presence)
        assert_same(logits(model, made), reference(made))


@pytest.mark.parametrize("depths", [(2, 4), (4, 2)])
@pytest.mark.parametrize("case", ["pmf", "maple"])
def test_agrees_with_encoders_of_different_depth(case, depths):
    (model, reference), made = build(case, *depths), batch([4, 2], [1, 0], [1, 1])
    assert_same(logits(model, made), reference(made))
