"""Read-only prompts: the frozen stream, gradients, and what a cache would store."""

import pytest
import torch
from tiny_models import (
    batch,
    cached,
    every_encoder,
    image_encoder,
    make,
    text_encoder,
)

from tolerance import assert_same


def build(encoders=(image_encoder, text_encoder), **epic):
    image, text = encoders
    return make("EPIC", image(), text(), prompt_attention="read_only", **epic)


def made():
    return batch([5, 2, 4], [1, 0, 1], [1, 1, 0])


@every_encoder
@torch.no_grad()
def test_frozen_stream_is_the_encoders_own_whatever_the_prompts(encoders):
    model, whole = build(encoders), batch([5, 2, 4])
    mask = whole["attention_mask"].bool()
    for tower, inputs, seen in (
        (model.image_tower, whole["pixel_values"], None),
        (model.text_tower, whole["input_ids"], mask),
    ):
        encoder, memories = tower.encoder, []
        state = tower.extract(inputs, seen)
        for step in range(2):
            prompts = torch.randn(3, 2, encoder.width, dtype=torch.float64)
            memories.append(state.memory(step)[0])
            state, _ = state.acquire(step, prompts)
        tokens = encoder.embed(inputs)  # of the encoder alone, no tower
        for layer in range(3):
            if layer in tower.layers:
                expected = encoder.memory(layer, tokens)
                memory = memories[tower.layers.index(layer)]
                assert_same(memory, expected)
            tokens = encoder.run_layers(layer, layer + 1, tokens, seen)
        own = encoder.pool(tokens, seen)
        assert_same(state.pool().output, own)


@every_encoder
def test_an_answer_is_that_of_a_training_step(encoders):
    model, whole = build(encoders), made()
    with torch.no_grad():
        answer = model(whole).logits
    assert_same(answer, model(whole).logits)


@every_encoder
def test_no_graph_runs_through_the_tokens(encoders):
    # every tensor that backward keeps: with tokens in the graph a query would have N rows
    # (the score of words has one row for each)
    model, whole = build(encoders, first_prompt="independent"), batch([9, 9, 9])
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        out = model(whole).logits
    state = model.text_tower.extract(whole["input_ids"], whole["attention_mask"].bool())
    assert out.requires_grad
    assert not any(x.requires_grad for memory in state.memories for x in memory)
    width = model.text_encoder.width
    assert not any(x.shape[-2:] == (9, width) for x in saved if x.ndim == 3)


def test_layers_run_nothing_of_the_frozen_encoder(monkeypatch):
    model, whole = build(), made()
    stored = cached(model, whole, "layers")
    for encoder in (model.image_encoder, model.text_encoder):
        monkeypatch.setattr(encoder, "run_layer", lambda *_: pytest.fail("a frozen layer ran"))
    assert model(stored).logits.isfinite().all()


def test_half_precision_features_reach_a_model_of_another_dtype():
    model, whole = build(), made()
    stored = cached(model, whole, "layers")
    for key in ("image_features", "text_features"):
        stored[key] = {name: x.half() for name, x in stored[key].items()}
    expected = model(whole).logits
    assert_same(model(stored).logits, expected, dtype=torch.float16)
    got = model.bfloat16()(stored).logits
    assert got.dtype == torch.bfloat16
    assert_same(got, expected)
