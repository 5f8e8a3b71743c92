"""What is particular to a method: full fine-tuning, LoRA, MaPLe and PMF."""

import builtins

import pytest
import timm
import torch
from tiny_models import (
    METHODS,
    PLAIN,
    base_method,
    batch,
    clip_image_encoder,
    count_trained,
    hf_text,
    image_encoder,
    logits,
    text_encoder,
    trained,
    vit,
)

from epic_pl.nn import Pair
from epic_pl.nn.encoders import TimmViTEncoder, TransformersEncoder, WholeModelEncoder
from epic_pl.nn.methods import MaPLe
from epic_pl.utils.errors import ConfigError
from tolerance import assert_differ, assert_same


def make(name, image=None, text=None, **options):
    encoders = Pair(image or image_encoder(), text or text_encoder())
    return METHODS[name](**options).build(encoders, 5, PLAIN).double().eval()


def without_gradient(model):
    model.train()
    model(batch([3, 2])).logits.sum().backward()
    return {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("FullFineTuning", {"encoder_lr": 0.0}),
        ("LoRA", {"rank": 0}),
        ("LoRA", {"alpha": 0}),
        ("MaPLe", {"num_prompts": 0}),
        ("MaPLe", {"prompt_depth": 4}),
        ("PMF", {"fusion_layers": 0}),
        ("PMF", {"fusion_layers": 4}),
        ("PMF", {"num_prompts": 0}),
    ],
    ids=str,
)
def test_impossible_options_are_refused_by_name(name, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        make(name, **options)


# full fine-tuning and LoRA --------------------------------------------------------------------


@pytest.mark.parametrize("method", ["FullFineTuning", "LoRA"])
def test_parts_without_effect_on_the_output_stay_frozen(method):
    # a pooler that is not run, and an attention pool where the class token is asked for
    text = TransformersEncoder(hf_text("bert"))
    assert any(name.startswith("pooler.") for name, _ in text.model.named_parameters())
    model = make(method, TimmViTEncoder(vit(global_pool="map"), "cls"), text)
    assert not any("pooler" in name or "attn_pool" in name for name in trained(model))
    assert not without_gradient(model)
    asked = make(method, TimmViTEncoder(vit(global_pool="map"), "auto"))
    assert any("attn_pool" in name for name in trained(asked))


@pytest.mark.parametrize("method", ["FullFineTuning", "LoRA"])
@pytest.mark.parametrize(("text", "pooling"), [("roberta", "cls"), ("electra", "mean")])
def test_other_families_are_trained_too(method, text, pooling):
    model = make(method, clip_image_encoder(), TransformersEncoder(hf_text(text), pooling))
    assert not without_gradient(model)
    assert any(name.startswith("text_tower.") for name in trained(model))


def test_full_trains_all_keeps_the_fingerprint_and_draws_no_random_numbers():
    image, text, others = image_encoder(), text_encoder(), (image_encoder(), text_encoder())
    before = text.fingerprint, image.fingerprint
    torch.manual_seed(0)
    plain = make("NoPrompts", *others)
    torch.manual_seed(0)
    with torch.no_grad():
        model = make("FullFineTuning", image, text)
        assert torch.equal(model.head.classifier.weight, plain.head.classifier.weight)
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
        for parameter in model.parameters():
            parameter.add_(1)
    assert (text.fingerprint, image.fingerprint) == before


@pytest.mark.parametrize("options", [{}, {"rank": 2, "alpha": 3}], ids=str)
def test_lora_starts_from_the_encoders_and_computes_with_merged_weights(options):
    # attention kernels that took the frozen weights past the matrices would show here
    model, made = make("LoRA", **options), batch([4, 2, 3], [1, 0, 1], [1, 1, 0])
    plain = make("NoPrompts")
    plain.head.load_state_dict(model.head.state_dict())
    assert_same(logits(model, made), logits(plain, made))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    merged = make("NoPrompts")
    merged.load_state_dict(merged_state(model), strict=True)
    assert_same(logits(model, made), logits(merged, made))
    assert_differ(logits(model, made), logits(plain, made))


def merged_state(model):
    """``W + (alpha / r) B A`` under the names of a model without LoRA."""
    state, scale = model.state_dict(), model.method.alpha / model.method.rank
    merged = {}
    for key, value in state.items():
        if ".lora_" in key:
            continue
        stem, is_base, kind = key.rpartition(".base_layer.")
        if is_base and kind == "weight":
            up, down = (state[f"{stem}.lora_{part}.default.weight"] for part in "BA")
            value = value + scale * up @ down
        merged[f"{stem}.{kind}" if is_base else key] = value
    return merged


def test_without_peft_the_way_out_is_named(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "peft":
            raise ImportError("No module named 'peft'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"pip install peft"):
        make("LoRA")
    make("FullFineTuning")


def test_lora_needs_linear_layers():
    image = WholeModelEncoder(timm.create_model("test_resnet", num_classes=0))
    with pytest.raises(ConfigError, match="LoRA needs linear layers"):
        make("LoRA", image)
    make("FullFineTuning", image)


# MaPLe ----------------------------------------------------------------------------------------


def test_maples_depth_is_four_or_that_of_the_shallower_encoder():
    config = MaPLe
    assert [config().depth(12), config().depth(3), config(prompt_depth=9).depth(12)] == [4, 3, 9]
    assert len(make("MaPLe", image_encoder(4), text_encoder(2)).prompts.text) == 2


# PMF ------------------------------------------------------------------------------------------


def test_pmf_trains_as_many_parameters_as_the_release():
    # the release has one more bias, of its second head, and no missing-modality embeddings
    assert count_trained(base_method("PMF", head=PLAIN)) == 2_543_818 - 101 + 2 * 768


def test_boundary_features_of_maple_are_the_mean_of_what_enters_the_interaction_layer():
    model, entering = make("MaPLe", interaction_layers=2), []
    layer = model.image_encoder.model.blocks[1]
    layer.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0]))
    boundary = model(batch([3, 2])).pooled.image.boundary
    patches = entering[0][:, 1:5]  # after the class token, before the prompts
    assert_same(boundary, patches.mean(dim=1))
