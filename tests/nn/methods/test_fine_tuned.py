import pytest
import torch
from tiny_models import (
    batch,
    clip_image_encoder,
    clip_text_encoder,
    hf_text,
    image_encoder,
    text_encoder,
    vit,
)

from epic_pl.errors import ConfigError
from epic_pl.nn.encoders import (
    HFTextEncoder,
    TimmViTEncoder,
)
from epic_pl.nn.methods.fine_tuned import FineTuned, FineTunedConfig
from epic_pl.nn.methods.linear_probe import LinearProbe
from epic_pl.nn.methods.lora import LoRA


def names(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def without_gradient(model):
    model.train()
    model(batch([3, 2])).sum().backward()
    return {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}


@pytest.mark.parametrize("method", [FineTuned, LoRA])
def test_parts_without_a_say_in_the_output_stay_frozen(method):
    # a pooler that is not run, and an attention pool where the class token is asked for
    image = TimmViTEncoder(vit(global_pool="map"), "cls")
    text = HFTextEncoder(hf_text("bert"))
    assert any(name.startswith("pooler.") for name, _ in text.model.named_parameters())
    model = method(image, text, 5).double()
    assert not any("pooler" in name or "attn_pool" in name for name in names(model))
    assert not without_gradient(model)
    asked = TimmViTEncoder(vit(global_pool="map"), "auto")
    assert any("attn_pool" in name for name in names(method(asked, text_encoder(), 5)))


@pytest.mark.parametrize("method", [FineTuned, LoRA])
@pytest.mark.parametrize(
    "text",
    [
        lambda: HFTextEncoder(hf_text("roberta")),
        lambda: HFTextEncoder(hf_text("electra"), "mean"),
        clip_text_encoder,
    ],
    ids=["roberta", "electra", "clip"],
)
def test_other_families_learn_in_whole_too(method, text):
    model = method(clip_image_encoder(), text(), 5).double()
    assert not without_gradient(model)
    assert any(name.startswith("text_tower.") for name in names(model))


def test_full_trains_all_of_a_vit_and_a_bert_and_keeps_their_fingerprint():
    image, text = image_encoder(), text_encoder()
    before = text.fingerprint, image.fingerprint
    model = FineTuned(image, text, 5)
    assert all(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert (text.fingerprint, image.fingerprint) == before


def test_building_is_not_random_and_leaves_no_gradient():
    torch.manual_seed(0)
    model = FineTuned(image_encoder(), text_encoder(), 5)
    torch.manual_seed(0)
    probe = LinearProbe(image_encoder(), text_encoder(), 5)
    assert torch.equal(model.head.linear.weight, probe.head.linear.weight)
    assert all(p.grad is None for p in model.parameters())
    with torch.no_grad():
        again = FineTuned(image_encoder(), text_encoder(), 5)
    assert names(again) == names(model)


def test_impossible_options_are_refused_by_name():
    with pytest.raises(ConfigError, match="encoder_lr"):
        FineTunedConfig(encoder_lr=0.0)
