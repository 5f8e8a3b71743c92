"""Read-only prompts: the frozen stream, gradients, and what a cache would store."""

import copy

import pytest
import torch
from tiny_models import (
    batch,
    bert,
    clip_image_encoder,
    clip_text_encoder,
    epic,
    image_encoder,
    sample,
    scramble,
    text_encoder,
    vit,
)

from epic_pl.errors import ConfigError
from epic_pl.nn import EPICConfig, HeadConfig
from epic_pl.nn.encoders import HFTextEncoder, TimmViTEncoder

ENCODERS = {
    "ViT cls, BERT cls": (image_encoder, text_encoder),
    "ViT mean, BERT mean": (
        lambda: TimmViTEncoder(scramble(vit(), seed=1), "mean"),
        lambda: HFTextEncoder(scramble(bert(), seed=2), "mean"),
    ),
    "CLIP": (clip_image_encoder, clip_text_encoder),
    "CLIP mean": (lambda: clip_image_encoder("mean"), lambda: clip_text_encoder("mean")),
    "ViT mean, CLIP text": (
        lambda: TimmViTEncoder(scramble(vit(), seed=1), "mean"),
        clip_text_encoder,
    ),
}
HEADS = {"plain": HeadConfig(), "all parts": HeadConfig(True, True, True)}
every_encoder = pytest.mark.parametrize("encoders", ENCODERS.values(), ids=ENCODERS.keys())


def build(encoders=(image_encoder, text_encoder), head=None, **options):
    sizes = {"num_prompts": 2, "interaction_layers": 2, "hub_width": 4}
    config = EPICConfig(**{"prompt_attention": "read_only", **sizes, **options})
    return epic(config, encoders[0](), encoders[1](), head=head)


def made(image_present=(1, 0, 1), text_present=(1, 1, 0)):
    return batch([5, 2, 4], image_present, text_present)


def cached(model, whole, level):
    """The batch with what the towers store in place of its inputs."""
    mask = whole["attention_mask"].bool()
    kept = {k: v for k, v in whole.items() if k not in ("pixel_values", "input_ids")}
    return kept | {
        "image_features": model.image_tower.features(whole["pixel_values"], None, level),
        "text_features": model.text_tower.features(whole["input_ids"], mask, level),
    }


@every_encoder
def test_frozen_stream_is_the_encoders_own_whatever_the_prompts(encoders):
    model, whole = build(encoders), made(None, None)
    mask = whole["attention_mask"].bool()
    towers = ((model.image_tower, "pixel_values", None), (model.text_tower, "input_ids", mask))
    before = [tower.features(whole[key], seen, "layers") for tower, key, seen in towers]
    for parameter in model.prompts.parameters():
        parameter.data += 1.0
    for (tower, key, seen), stored in zip(towers, before, strict=True):
        state = tower.extract(whole[key], seen, None)
        seen_again = [memory.keys.clone() for memory in state.memories]
        for step in range(2):
            prompts = torch.randn(3, 2, tower.encoder.width, dtype=torch.float64)
            state, _ = tower.acquire(step, state, prompts)
        again = tower.features(whole[key], seen, "layers")
        assert all(torch.equal(stored[name], again[name]) for name in stored)
        for memory, keys in zip(state.memories, seen_again, strict=True):
            assert torch.equal(memory.keys, keys)
        with torch.no_grad():  # the encoder alone, no tower
            encoder = tower.encoder
            alone = encoder.embed(whole[key])
            alone = encoder.run_layers(0, encoder.num_layers, alone, seen)
            assert torch.equal(stored["pooled"], encoder.pool(alone, seen))


@every_encoder
def test_gradients_reach_what_is_trained_and_nothing_else(encoders):
    model = build(encoders, interaction_layers=3)
    before = copy.deepcopy(model.image_encoder.state_dict())
    model(made()).square().sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
        else:
            assert parameter.grad is None, name
    after = model.image_encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@every_encoder
def test_no_graph_runs_through_the_tokens(encoders):
    # every tensor that backward keeps: with tokens in the graph a query would have N rows
    model, whole = build(encoders), batch([9, 9, 9])
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        out = model(whole)
    state = model.text_tower.extract(whole["input_ids"], whole["attention_mask"].bool(), None)
    assert out.requires_grad
    assert not any(x.requires_grad for memory in state.memories for x in memory)
    width = model.text_encoder.width
    assert not any(x.shape[-2:] == (9, width) for x in saved if x.ndim == 3)


@pytest.mark.parametrize("side", ["image", "text"])
@every_encoder
def test_content_of_an_absent_modality_never_matters(encoders, side):
    model = build(encoders)
    whole = made([0, 0, 0], None) if side == "image" else made(None, [0, 0, 0])
    other = batch([5, 2, 4], *((None, None)), seed=1)
    key = "pixel_values" if side == "image" else "input_ids"
    with torch.no_grad():
        assert torch.equal(model(whole), model(whole | {key: other[key]}))


@every_encoder
def test_padding_never_matters_and_a_batch_is_its_samples(encoders):
    model, whole = build(encoders), made()
    padded = whole["attention_mask"] == 0
    with torch.no_grad():
        logits = model(whole)
        changed = whole | {"input_ids": whole["input_ids"].masked_fill(padded, 7)}
        torch.testing.assert_close(model(changed), logits, rtol=0, atol=1e-12)
        for row in range(3):
            one = model(sample(whole, row))
            torch.testing.assert_close(one[0], logits[row], rtol=0, atol=1e-9)


@every_encoder
@pytest.mark.parametrize("attention", ["joint", "read_only"])
@pytest.mark.parametrize("level", ["boundary", "layers"])
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
def test_restored_features_give_the_logits_of_live_ones(encoders, attention, level, head):
    model, whole = build(encoders, head, prompt_attention=attention), made()
    if (attention, level) == ("joint", "layers"):
        with pytest.raises(ConfigError, match=r"cache\.level to boundary"):
            cached(model, whole, level)
        return
    with torch.no_grad():
        stored = cached(model, whole, level)
        for absent in ("image", "text"):  # a store has zeros for missing modalities
            here = whole[f"{absent}_present"]
            stored[f"{absent}_features"] = {
                name: x * here.view(-1, *[1] * (x.ndim - 1))
                for name, x in stored[f"{absent}_features"].items()
            }
        torch.testing.assert_close(model(stored), model(whole), rtol=0, atol=1e-12)


def test_layers_run_nothing_of_the_frozen_encoder(monkeypatch):
    model, whole = build(), made()
    stored = cached(model, whole, "layers")
    for encoder in (model.image_encoder, model.text_encoder):
        monkeypatch.setattr(encoder, "run_layer", lambda *_: pytest.fail("a frozen layer ran"))
    assert model(stored).isfinite().all()


def test_half_precision_features_reach_a_model_of_another_dtype():
    model, whole = build(), made()
    stored = cached(model, whole, "layers")
    for key in ("image_features", "text_features"):
        stored[key] = {name: x.half() for name, x in stored[key].items()}
    expected = model(whole)
    torch.testing.assert_close(model(stored), expected, rtol=0, atol=1e-2)
    got = model.bfloat16()(stored)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), expected, rtol=0.1, atol=0.2)


def test_both_attentions_differ():
    # a switch that changed nothing would pass all else
    joint, read_only, whole = build(prompt_attention="joint"), build(), made()
    with torch.no_grad():
        assert (joint(whole) - read_only(whole)).abs().max() > 1e-3
