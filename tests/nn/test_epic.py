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
from epic_pl.module.config import OptimConfig
from epic_pl.module.optim import build_optimizer
from epic_pl.module.parameters import trainable_share
from epic_pl.nn import EPIC, EPICConfig, HeadConfig, Pair
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


ALL_PARTS = HeadConfig(boundary=True, similarity=True, unimodal=True, dropout=0.0)
PAPER = {"hub": "parameter_free", "generation": "linear", "first_prompt": "from_text"}


# interaction ----------------------------------------------------------------------------------


def test_hubs_without_messages_equal_no_hub():
    with_hub, without = (
        epic(config(interaction_layers=3, hub=hub)) for hub in ("bottleneck", "none")
    )
    without.load_state_dict(
        {k: v for k, v in with_hub.state_dict().items() if not k.startswith("hubs.")}
    )
    made = batch([4, 2], [1, 0], [1, 1])
    assert not torch.allclose(logits(with_hub, made), logits(without, made))
    for hub in with_hub.hubs:
        torch.nn.init.zeros_(hub.up_image.weight)
        torch.nn.init.zeros_(hub.up_text.weight)
    torch.testing.assert_close(logits(with_hub, made), logits(without, made), rtol=0, atol=0)


def test_without_a_hub_text_never_reaches_the_image_features():
    model = epic(config(interaction_layers=3, hub="none"))
    captured = {"image": [], "text": []}
    for name, seen in captured.items():
        getattr(model.head, name).register_forward_hook(
            lambda *args, seen=seen: seen.append(args[2])
        )
    first, other = batch([4, 4]), batch([4, 4], seed=1)
    logits(model, first)
    logits(model, {**first, "input_ids": other["input_ids"]})
    assert torch.equal(*captured["image"])
    assert not torch.allclose(*captured["text"])


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"interaction_layers": 3}, 2),
        ({"interaction_layers": 1}, 0),
        ({"interaction_layers": 3, "hub": "none"}, 0),
        ({"interaction_layers": 3, "hub": "parameter_free"}, 1),
        ({"interaction_layers": 1, "hub": "parameter_free"}, 0),
    ],
    ids=str,
)
def test_hubs_follow_the_steps(options, count):
    assert len(epic(config(**options)).hubs) == count


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
    calm = HeadConfig(dropout=0.0)
    model, made = epic(config(dropout=0.0), head=calm, modality_dropout=1.0), batch([4] * 8)
    without = epic(config(dropout=0.0), head=calm)
    torch.testing.assert_close(logits(model, made), logits(without, made), rtol=0, atol=0)
    model.train()
    for part in model.head.modules():  # whose statistics would move
        part.training = False
    dropped = logits(model, made)
    for row in range(8):
        candidates = [
            logits(model.eval(), batch([4] * 8, *([[1] * 8, [0] * 8][::sign])))[row]
            for sign in (1, -1)
        ]
        assert any(torch.allclose(dropped[row], c, rtol=0, atol=1e-9) for c in candidates)


# gradient and freezing ------------------------------------------------------------------------

COMBINATIONS = [
    dict(zip(("hub", "generation", "first_prompt", "prompt_attention"), options, strict=True))
    for options in itertools.product(
        ["bottleneck", "parameter_free", "none"],
        ["offset", "linear"],
        ["independent", "from_text"],
        ["joint", "read_only"],
    )
]


@pytest.mark.parametrize("layers", [1, 3, [[0, 1], [1, 2]]], ids=str)
@pytest.mark.parametrize("options", COMBINATIONS, ids=lambda s: "-".join(map(str, s.values())))
def test_every_trained_parameter_gets_a_gradient_and_no_frozen_one(options, layers):
    # under DDP a parameter without gradient stops the run, so presence must make no difference
    for presence, head, dropout in (
        (([1, 0], [1, 1]), HeadConfig(), 0.5),
        (([1, 1], [1, 1]), HeadConfig(similarity=True), 0.0),
        ((None, None), ALL_PARTS, 0.0),
    ):
        model = epic(
            config(interaction_layers=layers, **options), head=head, modality_dropout=dropout
        ).train()
        model(batch([3, 2], *presence)).sum().backward()
        without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not without
        encoders = [*model.image_encoder.parameters(), *model.text_encoder.parameters()]
        frozen = {id(p) for p in model.parameters() if not p.requires_grad}
        assert frozen == {id(p) for p in encoders}
        assert all(p.grad is None for p in encoders)


@pytest.mark.parametrize("attention", ["joint", "read_only"])
def test_nan_of_a_missing_modality_reaches_no_logit_and_no_gradient(attention):
    model = epic(config(prompt_attention=attention), head=ALL_PARTS)
    made = batch([4, 3, 2], [1, 0, 1], [1, 1, 0])
    expected = model(made)
    made["pixel_values"][1] = torch.nan
    torch.testing.assert_close(model(made), expected, rtol=0, atol=0)
    model(made).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("make_text", [text_encoder, clip_text_encoder], ids=["bert", "clip"])
def test_gradients_are_not_all_zero(make_text):
    model = epic(config(interaction_layers=3), text=make_text(), head=ALL_PARTS).train()
    made = batch([3, 4, 2], [1, 0, 1], [1, 1, 0])
    torch.nn.functional.cross_entropy(model(made), torch.tensor([0, 1, 2])).backward()
    zero = [
        n for n, p in model.named_parameters() if p.requires_grad and not p.grad.abs().sum() > 0
    ]
    assert not zero


def test_frozen_weights_are_bit_identical_after_training_and_the_rest_moves():
    model = epic(config(interaction_layers=3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = build_optimizer(model, OptimConfig(lr=0.1, weight_decay=0.1))
    for seed in range(3):
        optimizer.zero_grad()
        model(batch([4, 2, 3], [1, 0, 1], [0, 1, 1], seed=seed)).square().sum().backward()
        optimizer.step()
    encoders = ("image_tower.encoder", "text_tower.encoder")
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) is name.startswith(encoders), name


def test_train_never_wakes_the_encoders():
    noisy = vit(
        drop_rate=0.5, pos_drop_rate=0.5, proj_drop_rate=0.5, attn_drop_rate=0.5, drop_path_rate=0.5
    )
    drowsy = bert(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5)
    image = TimmViTEncoder(scramble(noisy.train()))
    text = HFTextEncoder(scramble(drowsy.train()))
    calm = HeadConfig(dropout=0.0)
    model = epic(config(dropout=0.0), image, text, head=calm).train()
    assert model.training
    assert model.head.training
    assert not any(m.training for part in (image, text) for m in part.modules())
    made = batch([4, 3])
    assert torch.equal(
        *(model.pool(*model.extract(made, Pair(None, None))).image.output for _ in range(2))
    )
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


# cost -----------------------------------------------------------------------------------------


def base_model(text: str, **options) -> EPIC:
    with torch.device("meta"):
        image = build_image_encoder("vit_base_patch16_224.augreg_in21k", pretrained=False)
        encoders = Pair(image, build_text_encoder(text, pretrained=False))
        return EPIC(encoders, 101, EPICConfig(**options))


def count_trained(model) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("text", ["google-bert/bert-base-uncased", "FacebookAI/roberta-base"])
def test_trained_share_of_base_encoders_is_at_most_one_percent(text):
    model = base_model(text)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert count_trained(model) / frozen <= 0.01
    assert trainable_share(model) == count_trained(model) / frozen
    assert frozen > 190e6


def test_the_papers_reading_trains_about_two_million_parameters():
    model = base_model("google-bert/bert-base-uncased", **PAPER)
    square = 768 * 768 + 768
    prompts = 4 * 768 + 3 * square  # first text prompts, one coupling, two generation maps
    head = 4 * 768 * 101 + 101 + 2 * 768  # linear layer, missing-modality embeddings
    assert count_trained(model) == prompts + head == 2_086_757


# options ---------------------------------------------------------------------------------


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
        ([[0, 0], [3, 4]], "not exist"),
        ([[0, 0], [1, 5]], "not exist"),
        ([[-1, 0]], "not exist"),
    ],
    ids=str,
)
def test_impossible_layers_are_refused_by_name(layers, words):
    with pytest.raises(ConfigError, match=words) as error:
        EPICConfig(interaction_layers=layers).layer_pairs(3, 5)
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
        EPICConfig(**option)
