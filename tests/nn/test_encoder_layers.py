"""Layer by layer gives what the library gives at once."""

import pytest
import timm
import torch
from timm.layers.attention import Attention
from tiny_models import (
    EOS,
    clip_image_encoder,
    clip_text,
    clip_text_encoder,
    clip_vision,
    hf_text,
    image_encoder,
    scramble,
    text_encoder,
    token_ids,
    vit,
)

from epic_pl.nn.encoders import TimmViTEncoder, TransformersEncoder
from epic_pl.nn.encoders.base import masked_mean, merged
from epic_pl.utils.errors import EncoderError
from tolerance import assert_same

VITS = {
    "class token": {},
    "registers": {"reg_tokens": 3},
    "registers, no position": {"reg_tokens": 3, "no_embed_class": True, "init_values": 0.1},
    "average of patches": {"class_token": False, "global_pool": "avg"},
    "average beside a class token": {"global_pool": "avg", "reg_tokens": 2},
    "SigLIP": {"class_token": False, "global_pool": "map"},
    "pre-norm, normed keys": {"pre_norm": True, "qk_norm": True, "final_norm": False},
    "dropout everywhere": {"drop_rate": 0.5, "pos_drop_rate": 0.5, "patch_drop_rate": 0.5},
}


def run(encoder, inputs, mask=None):
    with torch.no_grad():
        return encoder.run_layers(0, encoder.num_layers, encoder.embed(inputs), mask)


def pooled(encoder, inputs, mask=None):
    with torch.no_grad():
        return encoder.pool(run(encoder, inputs, mask), mask)


# timm -----------------------------------------------------------------------------------------


def distilled_deit():
    return timm.create_model(
        "deit_tiny_distilled_patch16_224", depth=2, embed_dim=12, img_size=16, num_classes=0
    )


class Gated(Attention):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, gated=True, **options)


@pytest.mark.parametrize("attention", [Attention, Gated])
def test_a_stream_that_reads_all_other_tokens_of_a_vit_is_the_joint_layer(attention):
    encoder = TimmViTEncoder(scramble(vit(qk_norm=True, attn_layer=attention)).eval())
    with torch.no_grad():
        tokens = encoder.embed(torch.randn(2, 3, 16, 16))
        read = encoder.run_stream(0, tokens[:, :2], encoder.memory(0, tokens[:, 2:]))
        assert_same(read, encoder.run_layer(0, tokens)[:, :2])


@pytest.mark.parametrize("name", [*VITS, "distilled DeiT"])
def test_timm_vit(name):
    model = scramble(vit(**VITS[name]) if name in VITS else distilled_deit()).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected, tokens = model(images), model.forward_features(images)
    assert_same(pooled(TimmViTEncoder(model), images), expected)
    means = tokens[:, model.num_prefix_tokens :].mean(dim=1)
    assert_same(pooled(TimmViTEncoder(model, "mean"), images), model.fc_norm(means))
    if model.cls_token is None:
        with pytest.raises(EncoderError, match="no class token"):
            TimmViTEncoder(model, "cls")
    else:
        first = model.fc_norm(tokens[:, 0])
        assert_same(pooled(TimmViTEncoder(model, "cls"), images), first)


@pytest.mark.parametrize(
    "options", [{"reg_tokens": 3}, {"class_token": False, "global_pool": "avg"}], ids=str
)
def test_the_mean_of_any_layer_is_of_the_patches(options):
    encoder = image_encoder(**options)
    tokens = encoder.embed(torch.randn(2, 3, 16, 16))
    assert_same(encoder.mean(tokens), tokens[:, -4:].mean(dim=1))


# BERT and its kin -----------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlm-roberta", "camembert", "electra"])
def test_bert_like(model_type):
    model = hf_text(model_type)
    ids, mask = token_ids([6, 3, 1])
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).last_hidden_state
    mask = mask.bool()
    for pad in (0, 1, 17):  # RoBERTa's kin tell pads by their id
        padded = ids.masked_fill(~mask, pad)
        assert_same(run(TransformersEncoder(model), padded, mask)[mask], expected[mask])
    for pooling in ("auto", "cls"):
        assert_same(pooled(TransformersEncoder(model, pooling), ids, mask), expected[:, 0])
    means = torch.stack([row[keep].mean(dim=0) for row, keep in zip(expected, mask, strict=True)])
    assert_same(pooled(TransformersEncoder(model, "mean"), ids, mask), means)


# CLIP -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 16), (24, 24), (24, 16), (16, 24)], ids=str)
def test_clip_vision(size):
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        output = clip_vision()(images, interpolate_pos_encoding=size != (16, 16))
    encoder = clip_image_encoder()
    assert_same(run(encoder, images), output.last_hidden_state)
    assert_same(pooled(encoder, images), output.pooler_output)
    expected = encoder.model.post_layernorm(output.last_hidden_state[:, 1:].mean(dim=1))
    assert_same(pooled(clip_image_encoder("mean"), images), expected)


def test_clip_text():
    ids, mask = token_ids([6, 3, 2])
    with torch.no_grad():
        output = clip_text()(input_ids=ids, attention_mask=mask)
    mask = mask.bool()
    encoder = clip_text_encoder()
    normed = encoder.model.final_layer_norm(run(encoder, ids, mask))
    assert_same(normed[mask], output.last_hidden_state[mask])
    assert (ids == EOS).sum() == 3
    assert_same(pooled(encoder, ids, mask), output.pooler_output)
    assert_same(pooled(encoder, ids[:1]), output.pooler_output[:1])  # no mask: the last token
    means = masked_mean(output.last_hidden_state, mask)
    assert_same(pooled(clip_text_encoder("mean"), ids, mask), means)


def test_a_sample_with_nothing_to_see_stays_finite_and_leaves_others_alone():
    encoder = text_encoder()
    tokens = torch.randn(2, 4, 24)
    mask = torch.tensor([[False] * 4, [True, True, True, False]])
    out = encoder.run_layers(0, 3, tokens, mask)
    assert out.isfinite().all()
    assert_same(out[1:], encoder.run_layers(0, 3, tokens[1:], mask[1:]))
    assert torch.equal(masked_mean(tokens, mask)[0], torch.zeros(24))


# identity -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["blocks.2.mlp.fc1.weight", "norm.bias", "pos_embed"])
def test_fingerprint_tells_one_weight(name):
    prints = []
    for nudge in (0.0, 0.0, 1e-3):
        model = scramble(vit())
        model.get_parameter(name).data.view(-1)[3] += nudge
        prints.append(TimmViTEncoder(model).fingerprint)
    assert prints[0] == prints[1] != prints[2]
    assert len(prints[0]) == 64


def test_fingerprint_tells_names_shapes_and_types():
    prints = {
        image_encoder().fingerprint,
        TimmViTEncoder(image_encoder().model.bfloat16()).fingerprint,
        image_encoder(depth=2).fingerprint,
        text_encoder().fingerprint,
    }
    assert len(prints) == 4


def test_frozen_from_the_start():
    encoder = TimmViTEncoder(vit(drop_rate=0.5).train().requires_grad_(True))
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not any(m.training for m in encoder.model.modules())
    assert not encoder.train().model.training


@pytest.mark.parametrize(
    ("side", "cells", "factor"), [(16, 8, 2), (14, 7, 2), (9, 5, 2), (37, 8, 5)]
)
def test_merged_patches_are_means_of_neighbours(side, cells, factor):
    torch.manual_seed(0)
    tokens = torch.randn(2, 3 + side**2, 4)
    found = merged(tokens, 3)
    assert torch.equal(found[:, :3], tokens[:, :3])
    grid = tokens[:, 3:].view(2, side, side, 4)
    steps = [slice(factor * i, factor * i + factor) for i in range(cells)]
    expected = [grid[:, rows, columns].mean((1, 2)) for rows in steps for columns in steps]
    torch.testing.assert_close(found[:, 3:], torch.stack(expected, 1))


def test_few_patches_and_those_of_no_square_stay():
    for number in (64, 65, 90):
        tokens = torch.randn(1, 1 + number, 4)
        assert merged(tokens, 1) is tokens
