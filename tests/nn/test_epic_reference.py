"""The vectorised model against the loop-written one, in float64."""

import pytest
import slow_epic
import torch
from tiny_models import batch, epic, image_encoder, text_encoder

from epic_pl.nn import EPICConfig, InteractionHub

SWITCHES = {
    "defaults": {},
    "one step has no hub": {"interaction_layers": 1},
    "no extraction layers": {"interaction_layers": 3},
    "one hub for all": {"interaction_layers": 3, "share_hub": True},
    "a hub each": {"interaction_layers": 3, "share_hub": False},
    "first prompts from text": {"interaction_layers": 3, "first_prompt": "from_text"},
    "no interaction": {"interaction_layers": 3, "interaction": "none"},
    "pooled only": {"head_inputs": "pooled"},
    "without the boundary": {"head_inputs": "pooled+prompts"},
    "without prompts": {"head_inputs": "pooled+boundary"},
    "boundary at the embedding": {"interaction_layers": 3, "head_inputs": "pooled+boundary"},
    "all layers": {"interaction_layers": 3, "head_inputs": "pooled+layers+prompts"},
    "all layers, with gaps": {
        "interaction_layers": [[0, 1], [2, 2]],
        "head_inputs": "pooled+layers",
        "missing_aware_head": True,
    },
    "one norm for the head": {"head_norm": "joint"},
    "missing-aware": {"missing_aware_head": True},
    "missing-aware, one norm, pooled": {
        "missing_aware_head": True,
        "head_norm": "joint",
        "head_inputs": "pooled",
    },
    "identity": {"interaction_layers": 3, "hub_activation": "identity"},
    "cold and fixed": {"temperature": 0.02, "learn_temperature": False},
    "many prompts": {"num_prompts": 5, "hub_width": 3},
    "one prompt": {"num_prompts": 1},
    "gaps": {"interaction_layers": [[0, 1], [2, 2]]},
    "gap after the last step": {"interaction_layers": [[0, 0], [1, 1]]},
    "all at once": {
        "interaction_layers": [[0, 0], [1, 2]],
        "share_hub": True,
        "first_prompt": "from_text",
        "head_inputs": "pooled",
    },
}
PRESENCE = {
    "all here": (None, None),
    "no picture": ([0, 1, 1], [1, 1, 1]),
    "no text": ([1, 1, 1], [1, 0, 1]),
    "mixed": ([1, 0, 1], [0, 1, 1]),
    "one key only": (None, [1, 0, 0]),
}


def config(**switches) -> EPICConfig:
    return EPICConfig(**{"num_prompts": 2, "interaction_layers": 2, "hub_width": 4, **switches})


def assert_agrees(model, made):
    with torch.no_grad():
        torch.testing.assert_close(model(made), slow_epic.logits(model, made), rtol=0, atol=1e-9)


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES.keys())
def test_agrees_over_switches(switches):
    assert_agrees(epic(config(**switches)), batch([5, 3, 4], [1, 0, 1], [1, 1, 0]))


@pytest.mark.parametrize("presence", PRESENCE.values(), ids=PRESENCE.keys())
def test_agrees_over_presence_and_padding(presence):
    assert_agrees(epic(config(interaction_layers=3)), batch([6, 1, 4], *presence))


@pytest.mark.parametrize("depths", [(2, 4), (4, 2)])
@pytest.mark.parametrize("layers", [2, [[0, 0], [1, 1]]])
def test_agrees_with_encoders_of_different_depth(depths, layers):
    model = epic(
        config(interaction_layers=layers), image_encoder(depths[0]), text_encoder(depths[1])
    )
    assert_agrees(model, batch([4, 2]))


def test_the_reference_notices_the_hub():
    # a reference that agreed with any hub would prove nothing
    model, made = epic(config(interaction_layers=3)), batch([4, 2])
    before = slow_epic.logits(model, made)
    model.hubs[0].up_image.weight.data *= 1.01
    assert (before - slow_epic.logits(model, made)).abs().max() > 1e-6


def test_hub_agrees_prompt_by_prompt():
    torch.manual_seed(3)
    hub = InteractionHub(6, 4, 5, temperature=0.3).double()
    for up in (hub.up_image, hub.up_text):
        torch.nn.init.normal_(up.weight)
    image, text = torch.randn(1, 3, 6).double(), torch.randn(1, 3, 4).double()
    with torch.no_grad():
        got = hub(image, text)
        expected = slow_epic.consolidate(hub, list(image[0]), list(text[0]))
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours[0], torch.stack(theirs), rtol=0, atol=1e-12)
