"""Recorded attention against weights that are computed position by position."""

import pytest
import slow_epic
import torch
from slow_encoders import samples
from tiny_models import (
    batch,
    clip_image_encoder,
    clip_text_encoder,
    either_attention,
    image_encoder,
    logits,
    make,
    over,
    text_encoder,
)

from tolerance import assert_same

VIT_BERT = (image_encoder, text_encoder)
CLIP = (clip_image_encoder, clip_text_encoder)
both_encoders = over("encoders", {"ViT, BERT": VIT_BERT, "CLIP": CLIP})


def build(encoders, **options):
    image, text = encoders
    return make("EPIC", image(), text(), interaction_layers=3, **options)


@both_encoders
@either_attention
@torch.no_grad()
def test_agrees_with_the_slow_reference(encoders, attention):
    model = build(encoders, prompt_attention=attention)
    whole = batch([5, 2, 4], (1, 0, 1), (1, 1, 0))
    given, recording = logits(model, whole), model.record(whole)
    assert torch.equal(given, model(whole).logits)
    assert len(recording.image) == len(recording.text) == 3
    for i, inputs in enumerate(samples(whole)):
        streams = slow_epic.streams(model, inputs)
        here = [x is not None for x in inputs]
        z, _ = slow_epic.first_prompts(model, streams, here)
        for step in range(3):
            prompts = slow_epic.entering_prompts(model, step, z, here)
            z = [[], []]
            for side, weights in enumerate((recording.image[step], recording.text[step])):
                stream = streams[side]
                stream.run_to(step)
                expected = stream.encoder.weights(step, stream.tokens, prompts[side])
                if not here[side]:  # nothing uses its prompts
                    expected = torch.zeros_like(expected)
                # pads and an absent modality are never in the slow sequence
                tokens, pads = weights.tokens[i].tensor_split([len(stream.tokens)], dim=-1)
                assert not pads.any()
                got = torch.cat([tokens, weights.prompts[i]], dim=-1)
                assert_same(got, expected)
                z[side] = stream.acquire(step, prompts[side])


@pytest.mark.parametrize(("kind", "count"), [("bottleneck", 3), ("parameter_free", 3), ("none", 0)])
def test_similarities_are_those_of_each_hub(kind, count):
    model = build(VIT_BERT, hub=kind)
    inputs = []
    for hub in model.hubs if count else ():
        hub.similarity.register_forward_hook(lambda cosine, args, _: inputs.append((cosine, args)))
    recording = model.record(batch([5, 3]))
    model(batch([5, 3]))  # is not recorded any more
    assert len(recording.similarities) == count
    for got, (scaled, (image, text)) in zip(recording.similarities, inputs[:count], strict=True):
        cosine = torch.cosine_similarity(image[:, :, None], text[:, None], dim=-1)
        assert_same(got, cosine / scaled.log_temperature.exp())
