from types import SimpleNamespace

import pytest
from slow_encoders import slow_encoders
from tiny_models import (
    ALL_PARTS,
    PAPER,
    PLAIN,
    base_method,
    batch,
    clip_image_encoder,
    clip_text_encoder,
    count_trained,
    either_attention,
    image_encoder,
    logits,
    make,
    over,
    text_encoder,
    trained,
)

from epic_pl.module.parameters import trainable_share
from epic_pl.nn import EPIC, HeadConfig, Pair
from epic_pl.nn.base import layer_pairs
from epic_pl.utils.errors import ConfigError
from tolerance import assert_same

FAMILIES = {
    "ViT, BERT": (image_encoder, text_encoder),
    "CLIP, BERT": (clip_image_encoder, text_encoder),
    "ViT, CLIP": (image_encoder, clip_text_encoder),
    "CLIP": (clip_image_encoder, clip_text_encoder),
}
every_family = over("encoders", FAMILIES)


def build(encoders, **options):
    image, text = encoders
    return make("EPIC", image(), text(), **options)


# gradient and freezing ------------------------------------------------------------------------


LAYERS = [(1, "offset"), (3, "linear"), ([[0, 1], [1, 2]], "offset")]
HUBS = ["bottleneck", "parameter_free", "none"]
FIRST = ["tokens", "independent", "from_text"]


@pytest.mark.parametrize(
    ("layers", "generation", "hub", "first_prompt"),
    [  # every two of them meet
        (*LAYERS[one], HUBS[other], FIRST[(one + other) % 3])
        for one in range(3)
        for other in range(3)
    ],
    ids=str,
)
@either_attention
def test_every_trained_parameter_gets_a_gradient_and_no_frozen_one(
    layers, hub, generation, first_prompt, attention
):
    options = {"interaction_layers": layers, "prompt_attention": attention}
    options |= {"hub": hub, "generation": generation, "first_prompt": first_prompt}
    # under DDP a parameter without gradient stops the run, so presence must make no difference
    for presence, head, dropout in (
        (([1, 0], [1, 1]), HeadConfig(similarity=True), 0.5),
        ((None, None), ALL_PARTS, 0.0),
    ):
        model = make(head=head, modality_dropout=dropout, **options).train()
        model(batch([3, 2], *presence)).logits.sum().backward()
        got = {name for name, p in model.named_parameters() if p.grad is not None}
        not_frozen = {name for name, _ in model.named_parameters() if "_tower." not in name}
        assert got == trained(model) == not_frozen


@every_family
def test_extraction_layers_leave_no_autograd_state(encoders):
    model = build(encoders, interaction_layers=[[1, 1]]).train()
    seen: list[list[bool]] = [[], []]
    for side, encoder in enumerate(slow_encoders(model)):
        for layer in encoder.layers:
            layer.register_forward_hook(
                lambda _, __, out, side=side: seen[side].append(out.grad_fn is not None)
            )
    model(batch([4, 3], [1, 0], [1, 1]))
    assert seen == [[False, True, True]] * 2


@every_family
def test_the_last_layer_works_on_what_is_used_and_gives_what_all_of_it_gives(encoders):
    model, made = build(encoders), batch([4, 1, 3], [1, 0, 1], [1, 1, 0])
    image, text = model.image_encoder, model.text_encoder
    # CLIP's text ends in its end-of-text token, before which nothing sees it
    assert image.can_trim_last_layer(2)
    assert text.can_trim_last_layer(2) is (encoders[1] is text_encoder)
    short = logits(model, made)
    image.can_trim_last_layer = text.can_trim_last_layer = lambda index: False
    assert_same(short, logits(model, made))


# cost -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["google-bert/bert-base-uncased", "FacebookAI/roberta-base"])
def test_with_the_papers_head_at_most_one_percent_is_trained(text):
    model = base_method(text=text, head=PLAIN, interaction_layers=4)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert trainable_share(model) == count_trained(model) / frozen <= 0.01
    assert frozen > 190e6


def test_the_papers_reading_trains_about_two_million_parameters():
    square = 768 * 768 + 768
    prompts = 2 * 768 + 3 * square  # first text prompts, one coupling, two generation maps
    head = 4 * 768 * 101 + 101 + 2 * 768  # linear layer, missing-modality embeddings
    model = base_method(head=PLAIN, interaction_layers=4, **PAPER)
    assert count_trained(model) == prompts + head == 2_085_221


# options ---------------------------------------------------------------------------------


DEPTHS = Pair(SimpleNamespace(num_layers=3), SimpleNamespace(num_layers=5))


def test_the_last_k_layers_by_default_and_pairs_as_given():
    assert layer_pairs(2, DEPTHS) == [(1, 3), (2, 4)]
    assert layer_pairs([[0, 1], [2, 2]], DEPTHS) == [(0, 1), (2, 2)]


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (0, "from 1 to 3"),
        (-1, "from 1 to 3"),
        (4, "3 and 5 layers"),
        ([], "rise"),
        ([[0, 0, 0]], "rise"),
        ([[1, 1], [0, 2]], "rise"),
        ([[0, 1], [0, 2]], "rise"),
        ([[0, 1], [1, 1]], "rise"),
        ([[0, 0], [3, 4]], "counted from 0"),
        ([[0, 0], [1, 5]], "counted from 0"),
        ([[-1, 0]], "counted from 0"),
    ],
    ids=str,
)
def test_impossible_layers_are_refused_by_name(layers, words):
    with pytest.raises(ConfigError, match=words) as error:
        layer_pairs(layers, DEPTHS)
    assert "interaction_layers" in str(error.value)
    assert str(layers) in str(error.value)


@pytest.mark.parametrize(
    "option",
    [
        {"num_prompts": 0},
        {"hub_width": 0},
        {"hub": "similarity"},
        {"prompt_attention": "readonly"},
        {"generation": "affine"},
        {"first_prompt": "from_image"},
        {"prompt_init_std": 0.0},
        {"dropout": 1.5},
    ],
    ids=str,
)
def test_impossible_options_are_refused_by_name(option):
    with pytest.raises(ConfigError, match=next(iter(option))):
        EPIC(**option)
