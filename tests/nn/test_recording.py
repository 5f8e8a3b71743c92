"""Recorded attention against weights that are computed position by position."""

import math

import pytest
import slow_read_only
import torch
from slow_epic import entering_prompts
from tiny_models import (
    batch,
    clip_image_encoder,
    clip_text_encoder,
    epic,
    image_encoder,
    text_encoder,
)

from epic_pl.nn import EPICConfig
from epic_pl.nn.recording import recorded

ENCODERS = {
    "ViT, BERT": (image_encoder, text_encoder),
    "CLIP": (clip_image_encoder, clip_text_encoder),
}
every_encoder = pytest.mark.parametrize("encoders", ENCODERS.values(), ids=ENCODERS.keys())
either_attention = pytest.mark.parametrize("attention", ["joint", "read_only"])


def build(encoders, **switches):
    sizes = {"num_prompts": 2, "interaction_layers": 3, "hub_width": 4}
    return epic(EPICConfig(**{**sizes, **switches}), encoders[0](), encoders[1]())


def made():
    return batch([5, 2, 4], (1, 0, 1), (1, 1, 0))


@every_encoder
@either_attention
def test_weights_sum_to_one_over_what_may_be_seen(encoders, attention):
    whole = made()
    _, found = recorded(build(encoders, prompt_attention=attention), whole)
    assert len(found.image) == len(found.text) == 3
    # text 1 has no picture; text 2 is absent, and pads are seen by nobody
    seen_text = whole["attention_mask"].bool() & whole["text_present"][:, None]
    for image, text in zip(found.image, found.text, strict=True):
        for each in (image, text):
            sums = each.tokens.sum(dim=-1) + each.prompts.sum(dim=-1)  # (B, n)
            torch.testing.assert_close(sums, torch.ones_like(sums))
        assert image.tokens.shape == (3, 2, 5)
        assert (image.tokens[1] == 0).all()
        assert (image.tokens[[0, 2]] > 0).all()
        assert ((text.tokens > 0) == seen_text[:, None]).all()


@every_encoder
@either_attention
def test_recording_changes_no_logits_and_leaves_nothing_behind(encoders, attention):
    model, whole = build(encoders, prompt_attention=attention), made()
    before = model(whole)
    logits, _ = recorded(model, whole)
    # joint prompts: recording runs the whole last layer, in another order of sums
    torch.testing.assert_close(logits, before, rtol=1e-12, atol=1e-12)
    for encoder in (model.image_encoder, model.text_encoder):
        assert not {"run_layer", "read_layer", "ends_in_first"} & set(vars(encoder))
    assert not any(hub._forward_pre_hooks for hub in model.hubs)
    torch.testing.assert_close(model(whole), before, rtol=0, atol=0)


@every_encoder
def test_read_only_agrees_with_the_slow_reference(encoders):
    model, whole = build(encoders, prompt_attention="read_only"), made()
    _, found = recorded(model, whole)
    has_image, has_text = (whole[f"{each}_present"].tolist() for each in ("image", "text"))
    for i in range(3):
        ids = whole["input_ids"][i][whole["attention_mask"][i].bool()]
        streams = [
            slow_read_only.Stream(
                slow_read_only.slow_encoder(encoder), inputs if here else None, [0, 1, 2]
            )
            for encoder, inputs, here in (
                (model.image_encoder, whole["pixel_values"][i], has_image[i]),
                (model.text_encoder, ids, has_text[i]),
            )
        ]
        z = [[], []]
        for step in range(3):
            prompts = entering_prompts(
                model, step, *z, has_image=bool(has_image[i]), has_text=bool(has_text[i])
            )
            for side, attention in enumerate((found.image[step], found.text[step])):
                stream = streams[side]
                expected = slow_weights(stream.encoder, step, stream.entering[step], prompts[side])
                got = torch.cat([attention.tokens[i], attention.prompts[i]], dim=-1)
                # what was never in the slow sequence has no weight: pads, absent copies
                got = torch.stack([row[row != 0] for row in got])
                torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)
                z[side] = stream.acquire(step, prompts[side])


@every_encoder
def test_joint_agrees_with_the_layer_on_one_sequence(encoders):
    """Step 1 sits on layer 0: its tokens are the embeddings, its prompts the learned ones."""
    model, whole = build(encoders, prompt_attention="joint"), batch([5])
    _, found = recorded(model, whole)
    for encoder, prompts, attention, inputs in (
        (model.image_encoder, model.prompts.first_image, found.image[0], whole["pixel_values"][0]),
        (model.text_encoder, model.prompts.first_text, found.text[0], whole["input_ids"][0]),
    ):
        slow = slow_read_only.slow_encoder(encoder)
        expected = slow_weights(slow, 0, slow.embed(inputs), list(prompts))
        got = torch.cat([attention.tokens[0], attention.prompts[0]], dim=-1)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)


def slow_weights(slow, layer, tokens, stream):
    """``(m, N + m)``: softmax of each query with each key, head by head."""
    with torch.no_grad():
        _, keys, _ = slow.project(layer, tokens + stream)
        queries, _, _ = slow.project(layer, stream)
        rows = []
        for query in queries:
            heads = []
            for q, *ks in zip(
                query.chunk(slow.heads), *(key.chunk(slow.heads) for key in keys), strict=True
            ):
                exps = [math.exp(float(q @ k) / math.sqrt(len(q))) for k in ks]
                heads.append(torch.tensor([e / sum(exps) for e in exps], dtype=torch.float64))
            rows.append(sum(heads) / slow.heads)
        return torch.stack(rows)


@pytest.mark.parametrize("hub", ["bottleneck", "parameter_free"])
def test_similarities_are_those_of_each_exchange(hub):
    model = build(ENCODERS["ViT, BERT"], hub=hub)
    inputs = []
    for each in model.hubs:
        each.register_forward_hook(lambda hub, args, _: inputs.append((hub, args[0])))
    _, found = recorded(model, batch([5, 3]))
    assert len(found.similarities) == len(inputs) == 2
    for got, (each, prompts) in zip(found.similarities, inputs, strict=True):
        a_image, a_text = each.project(prompts)
        cosine = torch.cosine_similarity(a_image[:, :, None], a_text[:, None], dim=-1)
        torch.testing.assert_close(got, cosine / each.similarity.log_temperature.exp())


def test_without_hubs_there_are_no_similarities():
    _, found = recorded(build(ENCODERS["ViT, BERT"], hub="none"), batch([5]))
    assert found.similarities == []
    assert len(found.image) == 3
