import itertools

import pytest
import torch
from tiny_models import (
    batch,
    bert,
    clip_image_encoder,
    clip_text_encoder,
    epic,
    hf_text,
    image_encoder,
    sample,
    scramble,
    text_encoder,
    vit,
)

from epic_pl.errors import ConfigError
from epic_pl.module.parameters import parameter_groups, trainable_share
from epic_pl.nn import EPIC, EPICConfig
from epic_pl.nn.encoders import (
    HFTextEncoder,
    TimmViTEncoder,
    build_image_encoder,
    build_text_encoder,
)

IMAGE_ENCODERS = {"vit": image_encoder, "clip": clip_image_encoder}
TEXT_ENCODERS = {
    "bert": text_encoder,
    "bert mean": lambda: HFTextEncoder(scramble(bert(), seed=2), "mean"),
    "roberta": lambda: HFTextEncoder(hf_text("roberta")),
    "electra": lambda: HFTextEncoder(hf_text("electra")),
    "clip": clip_text_encoder,
    "clip mean": lambda: clip_text_encoder("mean"),
}
all_text_encoders = pytest.mark.parametrize(
    "make_text", TEXT_ENCODERS.values(), ids=TEXT_ENCODERS.keys()
)


def config(**switches) -> EPICConfig:
    return EPICConfig(**{"num_prompts": 2, "interaction_layers": 2, "hub_width": 4, **switches})


def logits(model, made):
    with torch.no_grad():
        return model(made)


# what the hub is worth ------------------------------------------------------------------------


@pytest.mark.parametrize("share_hub", [True, False])
def test_a_hub_at_its_start_equals_no_interaction(share_hub):
    with_hub = epic(config(interaction_layers=3, share_hub=share_hub, head_similarity=False))
    without = epic(config(interaction_layers=3, interaction="none"))
    made = batch([4, 2], [1, 0], [1, 1])
    assert not torch.allclose(logits(with_hub, made), logits(without, made))
    for hub in with_hub.hubs:
        torch.nn.init.zeros_(hub.up_image.weight)
        torch.nn.init.zeros_(hub.up_text.weight)
    torch.testing.assert_close(logits(with_hub, made), logits(without, made), rtol=0, atol=0)


def test_without_interaction_text_never_reaches_the_pictures_half():
    model = epic(config(interaction_layers=3, interaction="none"))
    captured = []
    model.interaction_weight = None  # else the head is asked twice
    model.head.register_forward_pre_hook(
        lambda _, inputs: captured.append(torch.cat(inputs[0], dim=1))
    )
    first, other = batch([4, 4]), batch([4, 4], seed=1)
    logits(model, first)
    logits(model, {**first, "input_ids": other["input_ids"]})
    d_v, d_t = model.image_encoder.width, model.text_encoder.width
    changed = (captured[0] - captured[1]).abs().amax(dim=0) > 1e-9
    assert not changed[:d_v].any()
    assert not changed[d_v + d_t : 2 * d_v + d_t].any()
    assert changed[d_v : d_v + d_t].any()


def test_hubs_follow_the_steps():
    assert len(epic(config(interaction_layers=3)).hubs) == 2
    assert len(epic(config(interaction_layers=3, share_hub=True)).hubs) == 1
    assert len(epic(config(interaction_layers=1)).hubs) == 0
    assert len(epic(config(interaction_layers=1, share_hub=True)).hubs) == 0
    assert len(epic(config(interaction_layers=3, interaction="none")).hubs) == 0


# padding, batching, absence -------------------------------------------------------------------


@all_text_encoders
@pytest.mark.parametrize("make_image", IMAGE_ENCODERS.values(), ids=IMAGE_ENCODERS.keys())
def test_a_batch_gives_what_its_samples_give_and_pads_say_nothing(make_image, make_text):
    model = epic(config(), make_image(), make_text())
    made = batch([6, 3, 5, 1], [1, 1, 0, 1], [1, 1, 1, 0])
    together = logits(model, made)
    alone = torch.cat([logits(model, sample(made, i)) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)

    for other_pad in (0, 1, 17):
        ids = made["input_ids"].masked_fill(made["attention_mask"] == 0, other_pad)
        torch.testing.assert_close(
            logits(model, {**made, "input_ids": ids}), together, rtol=0, atol=1e-12
        )


@all_text_encoders
def test_an_absent_modalitys_content_never_matters(make_text):
    model = epic(config(interaction_layers=3), text=make_text())
    made = batch([5, 3, 4], [0, 1, 1], [1, 0, 1])
    expected = logits(model, made)
    other = batch([5, 5, 4], seed=9)
    pixels, ids, mask = (
        made[key].clone() for key in ("pixel_values", "input_ids", "attention_mask")
    )
    pixels[0] = other["pixel_values"][0] * 100
    ids[1] = other["input_ids"][1]
    for length in (0, 1, 5):
        mask[1] = torch.arange(5) < length
        changed = {**made, "pixel_values": pixels, "input_ids": ids, "attention_mask": mask}
        torch.testing.assert_close(logits(model, changed), expected, rtol=0, atol=1e-12)
    # and what is present does matter
    assert not torch.allclose(
        logits(model, {**made, "input_ids": other["input_ids"]})[0], expected[0]
    )


def test_a_sample_with_nothing_present_still_gets_finite_logits():
    model = epic(config(interaction_layers=3))
    assert logits(model, batch([3, 2], [0, 1], [0, 1])).isfinite().all()


def test_an_absent_modality_is_not_a_blank_one():
    model = epic(config())
    here, gone = batch([3]), batch([3], [0], [1])
    here["pixel_values"] = gone["pixel_values"] = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
    assert not torch.allclose(logits(model, here), logits(model, gone))


@pytest.mark.parametrize("keys", [(1, None), (None, 1), (1, 1)])
def test_presence_may_be_left_out_where_all_is_there(keys):
    model = epic(config(interaction_layers=3))
    given = [None if key is None else [1, 1] for key in keys]
    torch.testing.assert_close(
        logits(model, batch([4, 2], *given)), logits(model, batch([4, 2])), rtol=0, atol=1e-12
    )


def test_modality_dropout_in_training_only():
    model, made = epic(config(modality_dropout=1.0, dropout=0.0, head_dropout=0.0)), batch([4] * 8)
    calm = logits(model, made)
    torch.testing.assert_close(logits(model, made), calm, rtol=0, atol=0)
    torch.testing.assert_close(
        calm, logits(epic(config(dropout=0.0, head_dropout=0.0)), made), rtol=0, atol=0
    )
    model.train()
    dropped = logits(model, made)
    for row in range(8):
        candidates = [
            logits(model.eval(), batch([4] * 8, *([[1] * 8, [0] * 8][::sign])))[row]
            for sign in (1, -1)
        ]
        assert any(torch.allclose(dropped[row], c, rtol=0, atol=1e-9) for c in candidates)


# gradient and freezing ------------------------------------------------------------------------

COMBINATIONS = [
    dict(zip(("interaction", "share_hub", "first_prompt", "head_inputs"), switches, strict=True))
    for switches in itertools.product(
        ["similarity", "none"],
        [False, True],
        ["independent", "from_text"],
        ["pooled", "pooled+boundary+prompts", "pooled+layers"],
    )
]


@pytest.mark.parametrize("layers", [1, 2, 3, [[0, 1], [1, 2]]], ids=str)
@pytest.mark.parametrize("switches", COMBINATIONS, ids=lambda s: "-".join(map(str, s.values())))
def test_every_trained_parameter_gets_a_gradient_and_no_frozen_one(switches, layers):
    # under DDP a parameter without gradient stops the run, so absence must make no difference
    for presence, extra in (
        (([1, 0], [1, 1]), {"modality_dropout": 0.5}),
        (([1, 1], [1, 1]), {}),
        ((None, None), {"learn_temperature": False, "missing_aware_head": True}),
    ):
        model = epic(config(interaction_layers=layers, **switches, **extra)).train()
        model(batch([3, 2], *presence)).sum().backward()
        without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not without
        encoders = [*model.image_encoder.parameters(), *model.text_encoder.parameters()]
        frozen = {id(p) for p in model.parameters() if not p.requires_grad}
        assert frozen == {id(p) for p in encoders}
        assert all(p.grad is None for p in encoders)


@pytest.mark.parametrize("make_text", [text_encoder, clip_text_encoder], ids=["bert", "clip"])
def test_gradients_are_not_all_zero(make_text):
    # pooled only: prompts and hub must work through the tokens alone
    model = epic(config(interaction_layers=3, head_inputs="pooled"), text=make_text()).train()
    made = batch([3, 4, 2], [1, 0, 1], [1, 1, 0])
    torch.nn.functional.cross_entropy(model(made), torch.tensor([0, 1, 2])).backward()
    zero = [
        n for n, p in model.named_parameters() if p.requires_grad and not p.grad.abs().sum() > 0
    ]
    assert not zero


def test_frozen_weights_are_bit_identical_after_training_and_the_rest_moves():
    model = epic(config(interaction_layers=3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1, 0.1, 0.1))
    for seed in range(3):
        optimizer.zero_grad()
        model(batch([4, 2, 3], [1, 0, 1], [0, 1, 1], seed=seed)).square().sum().backward()
        optimizer.step()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) is (name not in trained), name


def test_train_never_wakes_the_encoders():
    noisy = vit(
        drop_rate=0.5, pos_drop_rate=0.5, proj_drop_rate=0.5, attn_drop_rate=0.5, drop_path_rate=0.5
    )
    drowsy = bert(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    image = TimmViTEncoder(scramble(noisy.train()))
    text = HFTextEncoder(scramble(drowsy.train()))
    model = epic(config(dropout=0.0, head_dropout=0.0), image, text).train()
    assert model.training
    assert model.head.training
    assert not any(m.training for part in (image, text) for m in part.modules())
    made = batch([4, 3])
    assert torch.equal(model(made), model(made))
    assert not any(m.training for m in model.requires_grad_(True).train().image_encoder.modules())


@pytest.mark.parametrize("make_text", [text_encoder, clip_text_encoder], ids=["bert", "clip"])
@pytest.mark.parametrize("make_image", [image_encoder, clip_image_encoder], ids=["vit", "clip"])
def test_extraction_layers_leave_no_autograd_state(make_image, make_text):
    model = epic(config(interaction_layers=[[1, 1]]), make_image(), make_text()).train()
    seen: dict[str, list[bool]] = {"image": [], "text": []}
    image, text = model.image_encoder.model, model.text_encoder.model
    layers = {
        "image": image.blocks if hasattr(image, "blocks") else image.encoder.layers,
        "text": text.encoder.layer if hasattr(text.encoder, "layer") else text.encoder.layers,
    }
    for side, stack in layers.items():
        for layer in stack:
            layer.register_forward_hook(
                lambda _, __, out, side=side: seen[side].append(out.grad_fn is not None)
            )
    model(batch([4, 3], [1, 0], [1, 1]))
    assert seen == {"image": [False, True, True], "text": [False, True, True]}


@pytest.mark.parametrize("make_text", [text_encoder, clip_text_encoder], ids=["bert", "clip"])
@pytest.mark.parametrize("make_image", [image_encoder, clip_image_encoder], ids=["vit", "clip"])
def test_the_last_layer_works_on_what_is_used_and_gives_what_all_of_it_gives(make_image, make_text):
    model = epic(config(), make_image(), make_text()).eval()
    made = batch([4, 1, 3], [1, 0, 1], [1, 1, 0])
    short, logits = [], {}
    for whole in (False, True):
        for encoder in (model.image_encoder, model.text_encoder):
            if whole:
                encoder.ends_in_first = lambda index: False
            elif encoder.ends_in_first(encoder.num_layers - 1):
                short.append(encoder)
        logits[whole] = model(made)
    torch.testing.assert_close(logits[False], logits[True])
    # CLIP's text ends in its end-of-text token, before which nothing sees it
    assert short == [model.image_encoder] + [model.text_encoder] * (make_text is text_encoder)


def test_no_gradient_flows_back_into_the_pictures():
    model, made = epic(config()).train(), batch([4, 3])
    made["pixel_values"].requires_grad_()
    model(made).sum().backward()
    assert made["pixel_values"].grad is None


def test_memory_for_backward_does_not_grow_with_extraction_layers():
    saved = []
    for depth in (2, 5):
        model = epic(config(), image_encoder(depth), text_encoder(depth)).train()
        counts = []
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda t, counts=counts: counts.append(t.numel()) or t, lambda t: t
        )
        with hooks:
            model(batch([4, 3]))
        saved.append(sum(counts))
    assert saved[0] == saved[1] > 0


# what it costs --------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["google-bert/bert-base-uncased", "FacebookAI/roberta-base"])
def test_trained_share_of_base_encoders_is_at_most_one_percent(text):
    with torch.device("meta"):
        model = EPIC(
            build_image_encoder("vit_base_patch16_224.augreg_in21k", pretrained=False),
            build_text_encoder(text, pretrained=False),
            num_classes=101,
            config=EPICConfig(num_prompts=4, interaction_layers=4, hub_width=64),
        )
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert trained / frozen <= 0.01
    assert trainable_share(model) == trained / frozen
    assert frozen > 190e6


# the switches ---------------------------------------------------------------------------------


def test_the_last_k_layers_by_default_and_pairs_as_given():
    assert EPICConfig(interaction_layers=2).layer_pairs(3, 5) == [(1, 3), (2, 4)]
    assert EPICConfig(interaction_layers=[[0, 1], [2, 2]]).layer_pairs(3, 3) == [(0, 1), (2, 2)]


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
        ([[0, 0], [3, 4]], "not there"),
        ([[0, 0], [1, 5]], "not there"),
        ([[-1, 0]], "not there"),
    ],
    ids=str,
)
def test_impossible_layers_are_refused_by_name(layers, words):
    with pytest.raises(ConfigError, match=words) as error:
        EPICConfig(interaction_layers=layers).layer_pairs(3, 5)
    assert "interaction_layers" in str(error.value)
    assert str(layers) in str(error.value)


@pytest.mark.parametrize(
    "switch",
    [
        {"num_prompts": 0},
        {"hub_width": 0},
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"temperature": 0.005},
        {"head_inputs": "pooled+boundry"},
        {"prompt_attention": "readonly"},
        {"hub_activation": "relu"},
        {"prompt_init_std": 0.0},
        {"dropout": 1.5},
        {"modality_dropout": -0.1},
    ],
    ids=str,
)
def test_impossible_options_are_refused_by_name(switch):
    with pytest.raises(ConfigError, match=next(iter(switch))):
        EPICConfig(**switch)


def test_prompts_start_with_less_weight_at_a_head_that_norms_each_part():
    encoders = image_encoder(), text_encoder()
    head = EPIC(*encoders, 5, config(head_prompt_scale=0.25)).head
    starts = [norm.weight.unique().tolist() for norm in head.norms]
    assert starts == 4 * [[1.0]] + 2 * [[0.25]]
    joint = EPIC(*encoders, 5, config(head_prompt_scale=0.25, head_norm="joint")).head
    assert joint.norm.weight.unique().tolist() == [1.0]
    with pytest.raises(ConfigError, match="head_prompt_scale"):
        config(head_prompt_scale=0.0)
