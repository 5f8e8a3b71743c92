"""Encoders of many architectures against the libraries' own forward passes."""

import copy
import inspect
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import timm
import torch
import transformers as hf
from architectures import (
    EVAS,
    FEATURE_IMAGES,
    FEATURE_TEXTS,
    FEATURE_TIMMS,
    IMAGES,
    TEXTS,
    VITS,
    write_hf,
    write_timm,
)
from tiny_models import cached, hf_text, image_encoder, text_encoder
from torch import nn

from epic_pl.inference.export.program import Probabilities, export_program, random_inputs
from epic_pl.nn import EPIC, Pair
from epic_pl.nn.encoders import (
    TransformersEncoder,
    WholeModelEncoder,
    build_image_encoder,
    build_text_encoder,
)
from epic_pl.nn.methods import (
    PMF,
    FullFineTuning,
    LateFusionMLP,
    LinearProbe,
    MaPLe,
    NoPrompts,
    Parts,
)
from epic_pl.utils.errors import EncoderError
from tolerance import assert_same

MASK = torch.tensor([[True] * 7, [True] * 5 + [False] * 2, [True] * 7])
FAST = {"DistilBERT", "ModernBERT", "Gemma 3, bidirectional", "Qwen3", "SigLIP text"}
FAST |= {"SigLIP", "DINOv3", "AIMv2", "timm EVA-02", "timm DINOv3"}
FAST |= {"DeBERTa", "timm ConvNeXt", "timm Swin"}
KINDS = {
    **{name: ("text", made) for name, made in TEXTS.items()},
    **{name: ("image", made) for name, made in IMAGES.items()},
    **{f"timm {name}": ("timm", made) for name, made in (VITS | EVAS).items()},
}
FEATURES = {
    **{name: ("text", made) for name, made in FEATURE_TEXTS.items()},
    **{name: ("image", made) for name, made in FEATURE_IMAGES.items()},
    **{f"timm {name}": ("timm", made) for name, made in FEATURE_TIMMS.items()},
}


def named(kinds):
    return [
        pytest.param(name, marks=[] if name in FAST else pytest.mark.slow, id=name)
        for name in kinds
    ]


class Case:
    """An encoder of the package, random inputs, and the library's own model as it is loaded."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name.lower()
        self.kind, made = (KINDS | FEATURES)[name]
        self.folder = (
            write_timm(folder, *made) if self.kind == "timm" else write_hf(folder, *made())
        )
        build = build_text_encoder if self.kind == "text" else build_image_encoder
        self.encoder = build(self.folder)
        self.mask = MASK if self.kind == "text" else None
        self.inputs = self.encoder.example(3, 7, torch.Generator().manual_seed(3))
        if self.kind == "text":
            self.inputs = self.inputs.clamp(min=3)  # pads and ends are told by their ids

    def library(self) -> nn.Module:
        if self.kind == "timm":
            return timm.create_model(f"local-dir:{self.folder}", pretrained=True).eval()
        kind = hf.T5EncoderModel if "t5" in self.name else hf.AutoModel
        model = kind.from_pretrained(self.folder, attn_implementation="eager").eval()
        return getattr(model, "text_model" if self.kind == "text" else "vision_model", model)

    def run_library(self, model: nn.Module):
        if self.kind == "timm":
            return model(self.inputs)
        if self.kind == "image":
            return model(pixel_values=self.inputs)
        return model(input_ids=self.inputs, attention_mask=self.mask.long())

    def own_pooling(self):
        outputs = self.run_library(self.library())
        if self.kind == "timm":
            return outputs
        states, pooled = outputs.last_hidden_state, getattr(outputs, "pooler_output", None)
        kinds = ("clip_t", "metaclip_2_t", "qwen", "gpt")
        causal = self.encoder.model.config.model_type.startswith(kinds)
        if causal:
            return states[torch.arange(3), MASK.sum(1) - 1]
        if self.encoder.model.config.model_type.startswith("siglip") and self.kind == "text":
            return self.encoder.model.head(states[torch.arange(3), MASK.sum(1) - 1])
        if self.kind == "text" or self.encoder.model.config.model_type == "vit":
            return states[:, 0]  # the pooler is for another task
        return states.mean(1) if pooled is None else pooled.flatten(1)

    def with_prompts(self, index: int, prompts: torch.Tensor, joint: bool):
        """The library's layer on tokens and prompts as one sequence: outputs of both.

        Without ``joint`` no token sees a prompt.
        """
        model, seen, n = self.library(), {}, prompts.shape[1]
        lists = (x for x in model.modules() if isinstance(x, nn.ModuleList))
        depth = self.encoder.num_layers
        layers = getattr(model, "blocks", None) or next(x for x in lists if len(x) == depth)

        def before(layer, args, kwargs):
            bound = inspect.signature(layer.forward).bind(*args, **kwargs).arguments
            given = {**bound, **bound.pop("kwargs", {})}
            tokens = given.pop("x" if self.kind == "timm" else "hidden_states")
            number = tokens.shape[1]
            hidden = torch.zeros(3, 1, number + n, number + n)
            if not joint:
                hidden[:, :, :number, number:] = -1e30
            mask = given.pop("attention_mask", None)
            if mask is not None:
                hidden[:, :, :number, :number] = mask
                hidden[:, :, number:, :number].masked_fill_(~MASK[:, None, None], -1e30)
            given["attn_mask" if self.kind == "timm" else "attention_mask"] = hidden
            self.rotate(model, index, given, tokens, n)
            return (torch.cat([tokens, prompts], 1),), given

        def after(layer, args, kwargs, output):
            number = output.shape[1] - n
            seen["tokens"], seen["prompts"] = output[:, :number], output[:, number:]
            return seen["tokens"]

        layers[index].register_forward_pre_hook(before, with_kwargs=True)
        layers[index].register_forward_hook(after, with_kwargs=True)
        for part in model.modules():
            if self.kind == "timm" and hasattr(part, "fused_attn"):
                part.fused_attn = False
        self.run_library(model)
        return seen["tokens"], seen["prompts"]

    def rotate(self, model, index, given, tokens, n):
        """Extend the rotations of a layer: by nothing, or by positions after a causal text."""
        if given.get("rope") is not None:
            sines, cosines = given["rope"].chunk(2, -1)
            cosines, sines = unrotated(cosines, sines, n)
            given["rope"] = torch.cat([sines, cosines], -1)
        if given.get("position_embeddings") is None:
            return
        if self.kind == "image":
            given["position_embeddings"] = unrotated(*given["position_embeddings"], n)
            return
        positions = torch.arange(tokens.shape[1]).expand(3, -1)
        own = torch.zeros(3, n, dtype=torch.long)
        if model.config.model_type == "qwen3":
            own = MASK.sum(1, keepdim=True) + torch.arange(n)
        positions = torch.cat([positions, own], 1)
        typed = "layer_type" in inspect.signature(model.rotary_emb.forward).parameters
        kind = (model.config.layer_types[index],) if typed else ()
        given["position_embeddings"] = model.rotary_emb(tokens, positions, *kind)


def unrotated(cosines, sines, n):
    ones = torch.ones_like(cosines[..., :1, :]).expand(*cosines.shape[:-2], n, -1)
    return torch.cat([cosines, ones], -2), torch.cat([sines, torch.zeros_like(ones)], -2)


@pytest.fixture
def case(request, tmp_path):
    with torch.no_grad():
        return Case(request.param, tmp_path)


over_architectures = pytest.mark.parametrize("case", named(KINDS), indirect=True)


@over_architectures
@torch.no_grad()
def test_the_pooled_output_is_the_librarys(case):
    encoder = case.encoder
    tokens = encoder.run_layers(0, encoder.num_layers, encoder.embed(case.inputs), case.mask)
    assert_same(encoder.pool(tokens, case.mask), case.own_pooling())
    assert len(encoder.fingerprint) == 64


@over_architectures
@torch.no_grad()
def test_prompts_are_positions_of_one_sequence(case):
    encoder = case.encoder
    prompts = torch.randn(3, 2, encoder.width, generator=torch.Generator().manual_seed(5))
    tokens = encoder.embed(case.inputs)
    visible = slice(None) if case.mask is None else MASK
    for index in range(encoder.num_layers):
        read = encoder.run_stream(index, prompts, encoder.memory(index, tokens), case.mask)
        assert_same(read, case.with_prompts(index, prompts, joint=False)[1])
        ours = encoder.run_layer(index, tokens, case.mask, prompts)
        expected_tokens, expected = case.with_prompts(index, prompts, joint=True)
        assert_same(ours[0][visible], expected_tokens[visible])
        assert_same(ours[1], expected)
        tokens = encoder.run_layer(index, tokens, case.mask)


@pytest.mark.parametrize(
    "case", ["DINOv3", "timm DINOv3", "timm EVA-02", "timm RoPE, mixed"], indirect=True
)
@torch.no_grad()
def test_merged_patches_have_the_mean_direction_of_their_rotations(case):
    encoder = case.encoder
    if case.kind == "timm":
        encoder.resize(128)
    first, images = encoder.num_prefix_tokens, torch.randn(2, 3, 128, 128)
    cells = encoder.merge(encoder.embed(images))  # 8 x 8 of 2 x 2 patches
    keys = encoder.memory(1, cells).keys[:, :, first:]
    _, plain, _ = encoder.heads(1, cells, encoder.memory(1, cells))  # not rotated
    each = cells[:, first:].unflatten(1, (8, 8)).repeat_interleave(2, 1).repeat_interleave(2, 2)
    copies = torch.cat([cells[:, :first], each.flatten(1, 2)], 1)
    rotated = encoder.memory(1, copies).keys[:, :, first:]
    means = rotated.unflatten(2, (8, 2, 8, 2)).mean((3, 5)).flatten(2, 3)
    halves = case.kind == "image" or encoder.model.blocks[1].attn.rotate_half

    def lengths(keys):
        pairs = keys.unflatten(-1, (2, -1) if halves else (-1, 2))
        whole = pairs.norm(dim=-2 if halves else -1, keepdim=True).expand_as(pairs)
        return whole.flatten(-2)

    assert_same(keys, means / lengths(means) * lengths(plain[:, :, first:]))


@over_architectures
def test_methods_train_and_read_stored_features(case, pair):
    encoders, inputs = pair
    joint = EPIC(num_prompts=2, hub_width=8, prompt_attention="joint")
    for method in (EPIC(num_prompts=2, hub_width=8), joint, Parts(), LateFusionMLP()):
        torch.manual_seed(0)
        model = method.build(encoders, 3).eval()
        logits = model(inputs).logits
        logits.logsumexp(1).sum().backward()
        gradients = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        assert torch.isfinite(torch.stack(gradients)).all()
        assert max(gradients) > 0
        if method is not joint:
            with torch.no_grad():
                assert_same(model(cached(model, inputs, "layers")).logits, logits)


@pytest.fixture
def pair(case):
    """Both encoders, one of them the case's, and inputs."""
    image, text = image_encoder(), text_encoder()
    inputs = {
        "pixel_values": image.example(3, 0, torch.Generator().manual_seed(1)),
        "input_ids": text.example(3, 7, torch.Generator().manual_seed(2)),
        "attention_mask": MASK.long(),
    }
    if case.kind == "text":
        return Pair(image, case.encoder), inputs | {"input_ids": case.inputs}
    return Pair(case.encoder, text), inputs | {"pixel_values": case.inputs}


def doubled(part, given, output):
    return type(output)(last_hidden_state=2 * output.last_hidden_state)


def length_added(part, given):
    return (given[0] + given[0].shape[1], *given[1:])


@pytest.mark.parametrize(
    ("problem", "change"),
    [
        ("the output of its last layer", lambda x: x.register_forward_hook(doubled)),
        ("a token read in layer 1", lambda x: x.layer[1].register_forward_pre_hook(length_added)),
        ("'NoneType'", lambda x: setattr(x.layer[1], "attention", None)),
    ],
)
def test_a_model_that_its_layers_do_not_explain_is_refused(problem, change):
    model = hf_text("bert")
    change(model.encoder)
    with pytest.raises(EncoderError, match=f"BertModel cannot be run layer by layer: {problem}"):
        TransformersEncoder(model)


@pytest.mark.parametrize("case", ["Qwen3"], indirect=True)
def test_threads_share_an_encoder(case):
    encoder, number = case.encoder, 24
    tokens = torch.randn(number, 2, 7, 32)

    def run(each):
        with torch.no_grad():
            memory = encoder.memory(each % 3, tokens[each])
            assert memory.keys.shape == (2, 2, 7, 8)  # of the groups, not of the heads
            return encoder.run_stream(each % 3, tokens[each, :, :2], memory)

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, range(number)))
    for each in range(number):
        assert_same(together[each], run(each))


@pytest.mark.parametrize("case", named(FEATURES), indirect=True)
def test_any_other_model_gives_features(case, pair):
    encoders, inputs = pair
    encoder, mask = case.encoder, case.mask
    with torch.no_grad():
        tokens = encoder.embed(case.inputs, mask)
        expected = case.own_pooling()
        ours = encoder.pool(tokens, mask)[:, : expected.shape[1]]
        assert_same(ours, expected)
        changed = case.inputs if mask is None else torch.where(mask, case.inputs, 5)
        assert_same(encoder.pool(encoder.embed(changed, mask), mask), encoder.pool(tokens, mask))
    assert len(encoder.fingerprint) == 64
    for method in (NoPrompts(), LinearProbe(), LateFusionMLP(), Parts(), FullFineTuning()):
        torch.manual_seed(0)
        model = method.build(copy.deepcopy(encoders), 3).eval()
        logits = model(inputs).logits
        logits.logsumexp(1).sum().backward()
        gradients = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        assert torch.isfinite(torch.stack(gradients)).all()
        if model.cache_levels:
            with torch.no_grad():
                for level in model.cache_levels:
                    assert_same(model(cached(model, inputs, level)).logits, logits)
    for method in (EPIC(), EPIC(prompt_attention="joint"), MaPLe(), PMF()):
        with pytest.raises(EncoderError, match=r"LinearProbe.*docs/methods.md"):
            method.build(encoders, 3)


EXPORTED = ["ModernBERT", "Gemma 3, bidirectional", "Qwen3", "DINOv3", "timm EVA-02", "DeBERTa"]


@pytest.mark.slow
@pytest.mark.parametrize("case", EXPORTED, indirect=True)
@pytest.mark.parametrize("attention", ["joint", "read_only"])
def test_an_exported_graph_gives_the_same_for_other_rows_and_lengths(case, pair, attention):
    method = EPIC(num_prompts=2, hub_width=8, prompt_attention=attention)
    if isinstance(case.encoder, WholeModelEncoder):
        method = Parts()
    model = method.build(pair[0], 3)
    module = Probabilities(model, nn.Softmax(dim=1)).eval()
    program = export_program(module).module()
    with torch.no_grad():
        for rows, tokens in ((2, 5), (4, 9), (3, 3)):
            inputs = random_inputs(model, rows, tokens, seed=rows)
            assert_same(program(*inputs), module(*inputs))
