"""The vectorised model against the loop-written one, in float64."""

import pytest
import slow_epic
from tiny_models import (
    ALL_PARTS,
    PAPER,
    PRESENCE,
    batch,
    either_attention,
    every_encoder,
    image_encoder,
    logits,
    make,
    over,
    text_encoder,
)

from epic_pl.nn import HeadConfig
from tolerance import assert_same

CASES = {
    "defaults": ({}, None),
    "one step has no hub": ({"interaction_layers": 1}, ALL_PARTS),
    "no extraction layers": ({"interaction_layers": 3}, ALL_PARTS),
    "no hub": ({"interaction_layers": 3, "hub": "none"}, None),
    "parameter-free hub": ({"interaction_layers": 3, "hub": "parameter_free"}, None),
    "linear generation": ({"interaction_layers": 3, "generation": "linear"}, None),
    "first prompts independent": (
        {"first_prompt": "independent", "interaction_layers": 3},
        ALL_PARTS,
    ),
    "first prompts from text": ({"first_prompt": "from_text"}, None),
    "paper": ({"interaction_layers": 3, **PAPER}, None),
    "boundary": ({}, HeadConfig(boundary=True)),
    "similarity": ({}, HeadConfig(similarity=True)),
    "squeezed": ({}, HeadConfig(network="squeezed")),
    "wide": ({}, HeadConfig(network="wide")),
    "squeezed, without hub": ({"hub": "none"}, HeadConfig(network="squeezed")),
    "many prompts": ({"num_prompts": 5, "hub_width": 3}, None),
    "one prompt": ({"num_prompts": 1}, None),
    "as many parts as prompts": ({"num_parts": 2}, ALL_PARTS),
    "fewer parts than prompts": ({"num_parts": 1}, ALL_PARTS),
    "parts that prompts share": ({"num_parts": 5, "num_prompts": 3}, ALL_PARTS),
    "gaps": ({"interaction_layers": [[0, 1], [2, 2]]}, ALL_PARTS),
    "gap after the last step": ({"interaction_layers": [[0, 0], [1, 1]]}, ALL_PARTS),
}


def assert_agrees(model, made):
    """Also without gradients."""
    expected = slow_epic.logits(model, made)
    for ours in (logits(model, made), model(made).logits):
        assert_same(ours, expected)


@either_attention
@over("case", CASES)
def test_agrees_over_options(case, attention):
    options, head = case
    model = make(prompt_attention=attention, head=head, **options)
    assert_agrees(model, batch([5, 3, 4], [1, 0, 1], [1, 1, 0]))


@either_attention
def test_agrees_over_presence_and_padding(attention):
    model = make(interaction_layers=3, prompt_attention=attention, head=ALL_PARTS)
    for presence in PRESENCE.values():
        assert_agrees(model, batch([6, 1, 4], *presence))


@either_attention
@every_encoder
def test_agrees_over_encoders(encoders, attention):
    image, text = encoders
    model = make("EPIC", image(), text(), prompt_attention=attention, head=ALL_PARTS)
    assert_agrees(model, batch([5, 2, 4], [1, 0, 1], [1, 1, 0]))


@either_attention
def test_agrees_where_prompts_read_means_of_patches(attention, monkeypatch):
    """4 x 4 patches, of which read-only prompts see 2 x 2 means; real encoders have 16 x 16."""
    monkeypatch.setattr("epic_pl.nn.encoders.base._MAX_SIDE", 2)
    image = image_encoder(patch_size=4)
    model = make("EPIC", image, prompt_attention=attention, head=ALL_PARTS)
    assert_agrees(model, batch([5, 3, 4], [1, 0, 1], [1, 1, 0]))


@either_attention
@pytest.mark.parametrize("depths", [(2, 4), (4, 2)])
def test_agrees_with_encoders_of_different_depth(depths, attention):
    encoders = image_encoder(depths[0]), text_encoder(depths[1])
    assert_agrees(make("EPIC", *encoders, prompt_attention=attention), batch([4, 2]))
