"""The vectorised model against the loop-written one, in float64."""

import pytest
import slow_epic
import slow_read_only
import torch
from tiny_models import (
    batch,
    bert,
    clip_image_encoder,
    clip_text_encoder,
    epic,
    image_encoder,
    scramble,
    text_encoder,
    vit,
)

from epic_pl.nn import EPICConfig, HeadConfig
from epic_pl.nn.encoders import HFTextEncoder, TimmViTEncoder

ALL_PARTS = HeadConfig(boundary=True, similarity=True, unimodal=True)
PAPER = {"hub": "parameter_free", "generation": "linear", "first_prompt": "from_text"}
CASES = {
    "defaults": ({}, None),
    "one step has no hub": ({"interaction_layers": 1}, ALL_PARTS),
    "no extraction layers": ({"interaction_layers": 3}, ALL_PARTS),
    "no hub": ({"interaction_layers": 3, "hub": "none"}, None),
    "parameter-free hub": ({"interaction_layers": 3, "hub": "parameter_free"}, None),
    "linear generation": ({"interaction_layers": 3, "generation": "linear"}, None),
    "first prompts from text": ({"first_prompt": "from_text"}, None),
    "paper": ({"interaction_layers": 3, **PAPER}, None),
    "boundary": ({}, HeadConfig(boundary=True)),
    "similarity": ({}, HeadConfig(similarity=True)),
    "unimodal": ({}, HeadConfig(unimodal=True)),
    "many prompts": ({"num_prompts": 5, "hub_width": 3}, None),
    "one prompt": ({"num_prompts": 1}, None),
    "gaps": ({"interaction_layers": [[0, 1], [2, 2]]}, ALL_PARTS),
    "gap after the last step": ({"interaction_layers": [[0, 0], [1, 1]]}, ALL_PARTS),
}
PRESENCE = {
    "all present": (None, None),
    "image missing": ([0, 1, 1], [1, 1, 1]),
    "text missing": ([1, 1, 1], [1, 0, 1]),
    "mixed": ([1, 0, 1], [0, 1, 1]),
    "one key only": (None, [1, 0, 0]),
}
ENCODERS = {
    "ViT cls, BERT cls": (image_encoder, text_encoder),
    "ViT mean, BERT mean": (
        lambda: TimmViTEncoder(scramble(vit(), seed=1), "mean"),
        lambda: HFTextEncoder(scramble(bert(), seed=2), "mean"),
    ),
    "CLIP": (clip_image_encoder, clip_text_encoder),
    "CLIP mean": (lambda: clip_image_encoder("mean"), lambda: clip_text_encoder("mean")),
}
REFERENCES = {"joint": slow_epic, "read_only": slow_read_only}
attentions = pytest.mark.parametrize("attention", REFERENCES)


def config(**options) -> EPICConfig:
    return EPICConfig(**{"num_prompts": 2, "interaction_layers": 2, "hub_width": 4, **options})


def assert_agrees(model, made):
    reference = REFERENCES[model.config.prompt_attention]
    with torch.no_grad():
        torch.testing.assert_close(model(made), reference.logits(model, made), rtol=0, atol=1e-9)


@attentions
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_agrees_over_options(case, attention):
    options, head = case
    model = epic(config(prompt_attention=attention, **options), head=head)
    assert_agrees(model, batch([5, 3, 4], [1, 0, 1], [1, 1, 0]))


@attentions
@pytest.mark.parametrize("presence", PRESENCE.values(), ids=PRESENCE.keys())
def test_agrees_over_presence_and_padding(presence, attention):
    model = epic(config(interaction_layers=3, prompt_attention=attention), head=ALL_PARTS)
    assert_agrees(model, batch([6, 1, 4], *presence))


@pytest.mark.parametrize("encoders", ENCODERS.values(), ids=ENCODERS.keys())
def test_read_only_agrees_over_encoders(encoders):
    made = batch([5, 2, 4], (1, 0, 1), (1, 1, 0))
    image, text = encoders
    assert_agrees(epic(config(prompt_attention="read_only"), image(), text(), head=ALL_PARTS), made)


@attentions
@pytest.mark.parametrize("depths", [(2, 4), (4, 2)])
def test_agrees_with_encoders_of_different_depth(depths, attention):
    encoders = image_encoder(depths[0]), text_encoder(depths[1])
    assert_agrees(epic(config(prompt_attention=attention), *encoders), batch([4, 2]))


@pytest.mark.parametrize(
    "part", ["hubs.0.up_image.weight", "prompts.first_image", "head.image.prompts.mean"]
)
@attentions
def test_the_reference_notices_a_change(part, attention):
    # a reference that agreed with any weights would prove nothing
    model, made = epic(config(interaction_layers=3, prompt_attention=attention)), batch([4, 2])
    before = REFERENCES[attention].logits(model, made)
    dict([*model.named_parameters(), *model.named_buffers()])[part].data.mul_(1.01)
    assert (before - REFERENCES[attention].logits(model, made)).abs().max() > 1e-7
