"""What every method of the registry must do: a new line there is tested here as it is."""

import re

import pytest
import torch
from tiny_models import (
    ALL_PARTS,
    METHODS,
    PLAIN,
    PRESENCE,
    batch,
    cached,
    clip_image_encoder,
    clip_text_encoder,
    count_trained,
    heads,
    image_encoder,
    logits,
    make,
    sample,
    text_encoder,
    trained,
)

from epic_pl.module.checkpoint import adapter_state, complete_state, frozen_keys
from epic_pl.module.config import OptimConfig
from epic_pl.module.optim import build_optimizer, parameter_groups
from epic_pl.module.parameters import count_parameters
from epic_pl.nn import EPIC, Pair
from epic_pl.nn.heads.inputs import Standardization
from epic_pl.nn.hub import NoHub
from epic_pl.nn.methods import LinearProbe, Method, NoInteraction
from epic_pl.utils.errors import CheckpointError, ConfigError
from tolerance import assert_differ, assert_same

# what a method draws once and does not train, outside of the encoders
LEFT_AS_DRAWN = {"PMF": {"image_prompts.fusion_context", "text_prompts.fusion_context"}}
methods = pytest.mark.parametrize("name", METHODS)


def head_buffers(model):
    """Names of the statistics and choices of all heads."""
    heads = tuple(f"{name}." for name, part in model.named_modules() if name.endswith("head"))
    return {name for name, _ in model.named_buffers() if name.startswith(heads)}


def inside(names):
    """Those that lie in an encoder."""
    return {name for name in names if "_tower.encoder." in name}


# gradient and freezing ------------------------------------------------------------------------


@methods
@pytest.mark.parametrize(("head", "modality_dropout"), [(PLAIN, 0.0), (ALL_PARTS, 0.5)])
def test_what_is_trained_gets_a_gradient_and_nothing_else(name, head, modality_dropout):
    # under DDP a parameter without gradient stops the run, so presence must make no difference
    model = make(name, head=head, modality_dropout=modality_dropout).train()
    for presence in PRESENCE.values():
        model.zero_grad()
        model(batch([3, 2, 4], *presence)).logits.sum().backward()
        got = {key for key, p in model.named_parameters() if p.grad is not None}
        assert got == trained(model), presence
    everything = {key for key, _ in model.named_parameters()}
    outside = everything - inside(everything)
    assert outside - got == LEFT_AS_DRAWN.get(name, set())
    assert bool(inside(got)) is (model.encoder_lr is not None)


@methods
@heads
def test_gradients_are_finite_and_not_zero_where_a_missing_image_is_nan(name, head):
    model = make(name, head=head).train()
    made = batch([3, 4, 2], [1, 0, 1], [1, 1, 0])
    made["pixel_values"][1] = torch.nan
    output, labels = model(made), torch.tensor([0, 1, 2])
    for given in {"answer": output.logits, **(output.trained or {})}.values():
        torch.nn.functional.cross_entropy(given, labels).backward(retain_graph=True)
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert not [n for n, gradient in gradients.items() if not gradient.any()]
    assert not [n for n, gradient in gradients.items() if not gradient.isfinite().all()]


@methods
def test_the_frozen_stays_bit_identical_and_all_that_is_trained_moves(name):
    model = make(name).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = build_optimizer(model, OptimConfig(lr=0.1, weight_decay=0.1))
    for seed in range(2):
        optimizer.zero_grad()
        output = model(batch([4, 2, 3], [1, 0, 1], [0, 1, 1], seed=seed))
        given = [output.logits, *(output.trained or {}).values()]
        torch.stack(given).square().sum().backward()
        optimizer.step()
    decided = re.compile(r"\.(chosen|prior)$|\.trees\.")
    statistics = {k for k in head_buffers(model) if not decided.search(k)}
    for key, value in model.state_dict().items():
        moves = key in trained(model) | statistics
        assert torch.equal(value, before[key]) is not moves, key


@methods
def test_encoders_are_in_training_mode_only_where_they_are_trained(name):
    model = make(name).train()
    assert model.head.training
    for encoder in (model.image_encoder, model.text_encoder):
        assert any(m.training for m in encoder.modules()) is (model.encoder_lr is not None)
    assert not any(m.training for m in model.eval().modules())


@methods
def test_every_trained_tensor_has_its_rate(name):
    model = make(name)
    groups = parameter_groups(model, OptimConfig(lr=1.0, prompt_lr=2.0, weight_decay=0.1))
    names = {id(p): key for key, p in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    assert set(rates) == trained(model)
    assert len({group["name"] for group in groups}) == len(groups)  # as loggers require
    for key, rate in rates.items():
        if inside([key]):
            assert rate == model.encoder_lr
        else:
            head = 1000 / model.head.num_features
            assert rate == (head if "head." in key else 2.0)
    counted = sum(trainable for trainable, _ in count_parameters(model).values())
    assert counted == count_trained(model)


# padding, batching, absence -------------------------------------------------------------------


@methods
@pytest.mark.parametrize(("head", "clip"), [(ALL_PARTS, False), (PLAIN, True)])
def test_a_batch_gives_what_its_samples_give_and_padding_never_matters(name, head, clip):
    encoders = (clip_image_encoder(), clip_text_encoder()) if clip else (None, None)
    model = make(name, *encoders, head=head)
    made = batch([6, 3, 5, 1], [1, 1, 0, 1], [1, 1, 1, 0])
    together = logits(model, made)
    alone = torch.cat([logits(model, sample(made, i)) for i in range(4)])
    assert_same(together, alone)
    for other_pad in (0, 17):
        ids = made["input_ids"].masked_fill(made["attention_mask"] == 0, other_pad)
        assert_same(logits(model, {**made, "input_ids": ids}), together)


@methods
@heads
def test_content_matters_where_the_modality_is_present_alone(name, head):
    model = make(name, head=head)
    made = batch([5, 3, 4], [0, 1, 1], [1, 0, 1])
    expected, other = logits(model, made), batch([5, 5, 4], seed=9)
    keys = ("pixel_values", "input_ids", "attention_mask")
    pixels, ids, mask = (made[key].clone() for key in keys)
    ids[1] = other["input_ids"][1]
    changed = {**made, **dict(zip(keys, (pixels, ids, mask), strict=True))}
    for image, words in ((other["pixel_values"][0] * 100, 5), (torch.nan, 1), (torch.inf, 0)):
        pixels[0] = image
        mask[1] = torch.arange(5) < words
        assert_same(logits(model, changed), expected)
    assert_differ(logits(model, {**made, "input_ids": other["input_ids"]})[0], expected[0])
    pixels[1] = other["pixel_values"][1]
    assert_differ(logits(model, {**made, "pixel_values": pixels})[1], expected[1])
    # and a missing image is not a black one
    black = {**made, "pixel_values": made["pixel_values"] * 0}
    del black["image_present"], black["text_present"]
    assert_differ(logits(model, black)[0], expected[0])


@methods
def test_presence_may_be_left_out_where_all_are_present(name):
    model = make(name)
    expected = logits(model, batch([4, 2]))
    for given in (([1, 1], None), (None, [1, 1]), ([1, 1], [1, 1])):
        assert_same(logits(model, batch([4, 2], *given)), expected)
    assert logits(model, batch([3, 2], [0, 1], [0, 1])).isfinite().all()


@pytest.mark.parametrize("name", [n for n in METHODS if n != "Trees"])  # silent in training
def test_modality_dropout_in_training_only(name):
    alone = {"members": 1} if name == "Ensemble" else {}  # each drops others
    model, made = make(name, modality_dropout=1.0, **alone), batch([4] * 8)
    assert torch.equal(logits(model, made), logits(make(name, **alone), made))
    for part in model.modules():  # of what is random in training, keep this alone
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    image_only, text_only = (
        logits(model, batch([4] * 8, [keep] * 8, [1 - keep] * 8)) for keep in (1, 0)
    )
    model.train()
    for part in model.modules():  # whose statistics would move
        part.training = part.training and not isinstance(part, Standardization)
    torch.manual_seed(1)  # with which rows lose one and the other
    dropped, lost = logits(model, made), set()
    for row in range(8):
        as_if = [
            torch.allclose(dropped[row], each[row], rtol=0, atol=1e-9)
            for each in (image_only, text_only)
        ]
        assert any(as_if)
        lost.add(tuple(as_if))
    assert len(lost) == 2  # some lost the image, some the text


# checkpoints and caches -----------------------------------------------------------------------


@methods
def test_a_checkpoint_holds_what_is_trained_and_restores_it_strictly(name):
    model, fresh, made = make(name), make(name), batch([4, 2], [1, 1], [1, 0])
    with torch.no_grad():
        for key, parameter in fresh.named_parameters():
            if key in trained(fresh) | LEFT_AS_DRAWN.get(name, set()):
                parameter.copy_(torch.randn_like(parameter))
    adapter = {
        key: value.clone() for key, value in adapter_state(model, model.state_dict()).items()
    }
    statistics = head_buffers(model)
    assert set(adapter) == trained(model) | LEFT_AS_DRAWN.get(name, set()) | statistics
    assert frozen_keys(model) == set(model.state_dict()) - set(adapter)
    assert_differ(logits(fresh, made), logits(model, made))
    fresh.load_state_dict(complete_state(fresh, adapter), strict=True)
    assert torch.equal(logits(fresh, made), logits(model, made))
    for change in ("lacks", "unknown"):
        broken = dict(adapter)
        if change == "lacks":
            broken.popitem()
        else:
            broken["surplus"] = torch.zeros(1)
        with pytest.raises(CheckpointError, match=change):
            complete_state(fresh, broken)


LEVELS = [
    (name, attention, level)
    for name in METHODS
    for attention in (("joint", "read_only") if issubclass(METHODS[name], EPIC) else ("joint",))
    for level in make(name, prompt_attention=attention).cache_levels
]


@pytest.mark.parametrize(("name", "attention", "level"), LEVELS)
def test_features_of_every_level_give_the_same_logits(name, attention, level):
    model = make(name, head=ALL_PARTS, prompt_attention=attention)
    for presence in PRESENCE.values():
        made = batch([4, 2, 3], *presence)
        stored = cached(model, made, level)
        assert_same(logits(model, stored), logits(model, made))


@methods
def test_a_level_that_stores_too_little_is_refused(name):
    model, made = make(name), batch([4, 2])
    for level in {"tokens", "layers"} - set(model.cache_levels):
        with pytest.raises(ConfigError) as error:
            model.image_tower.features(made["pixel_values"], None, level)
        said = str(error.value)
        assert said.startswith(f"cache.level '{level}' stores less than this method needs. ")
        way_out = said.rpartition("Set cache.level to ")[2]
        assert way_out == (
            f"{' or '.join(model.cache_levels)} (or off)." if model.cache_levels else "off."
        )


# what a method is made of ---------------------------------------------------------------------


def test_what_makes_a_method_cannot_be_changed():
    with pytest.raises(TypeError, match="hub"):
        NoInteraction(hub="bottleneck")
    encoders = Pair(image_encoder(), text_encoder())
    assert isinstance(NoInteraction().build(encoders, 5).hubs[0], NoHub)
    assert LinearProbe().build(encoders, 5, ALL_PARTS).head.similarity is None


def test_a_method_without_a_model_is_refused_naming_the_attribute():
    class Unfinished(Method):
        pass

    with pytest.raises(ConfigError, match=r"Unfinished has no attribute `model`: set it to"):
        Unfinished().build(Pair(image_encoder(), text_encoder()), 5)


@pytest.mark.parametrize("name", ["EPIC", "Parts"])
@pytest.mark.parametrize("training", [True, False])
def test_what_is_compared_is_dropped_from_in_training_only(name, training):
    options = {"dropout": 0.5, "first_prompt": "tokens"} if name == "EPIC" else {}
    model = make(name, **options)
    first, second = (model.train(training)(batch([3, 2])).matched for _ in range(2))
    for side in ("image", "text"):
        same = torch.equal(getattr(first, side), getattr(second, side))
        assert same is not training
