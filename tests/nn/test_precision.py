from contextlib import suppress

import pytest
import torch
from architectures import EVAS, FEATURE_TIMMS, IMAGES, TEXTS, VITS, write_hf, write_timm
from tiny_models import batch, make
from torch import nn

from epic_pl.module.config import EncoderConfig, EncodersConfig
from epic_pl.nn import EPIC
from epic_pl.nn.encoders import build_text_encoder
from epic_pl.nn.methods import FullFineTuning, LateFusionMLP, LoRA, NoPrompts
from epic_pl.nn.precision import DTYPES, check_precision, choose_precision, exact_products
from epic_pl.utils.errors import ConfigError
from tolerance import assert_same


def _lower(model, precision):
    for tower in (model.image_tower, model.text_tower):
        tower.encoder.precision = DTYPES[precision]


def _watch(model):
    """Notes each linear layer's output dtype, by whether it was run with gradient."""
    seen = {True: set(), False: set()}
    for encoder in (model.image_encoder, model.text_encoder):
        for layer in encoder.modules():
            if isinstance(layer, nn.Linear):
                layer.register_forward_hook(
                    lambda _, __, output: seen[torch.is_grad_enabled()].add(output.dtype)
                )
    return seen


@pytest.mark.parametrize(
    ("method", "attention"), [("EPIC", "joint"), ("EPIC", "read_only"), ("NoPrompts", "joint")]
)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_only_what_is_frozen_runs_in_the_lower_precision(method, attention, precision):
    model = make(method, prompt_attention=attention).float()
    made = batch([3, 5, 4, 2], dtype=torch.float32)
    full = model(made).logits
    _lower(model, precision)
    seen = _watch(model)
    logits = model(made).logits
    assert seen[False] == {DTYPES[precision]}
    assert seen[True] == ({torch.float32} if method == "EPIC" else set())
    seen[False].clear()
    with torch.no_grad():
        assert_same(model(made).logits, logits, dtype=DTYPES[precision])
    assert DTYPES[precision] in seen[False]
    if attention == "read_only":  # tokens and prompts run together
        assert seen[False] == {DTYPES[precision]}
    assert logits.dtype == torch.float32
    assert 0 < (logits - full).abs().max() < 0.1 * full.abs().max()

    logits.sum().backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert {gradient.dtype for gradient in gradients} == {torch.float32}


def test_trained_encoders_keep_the_trainers_precision():
    model = make("FullFineTuning").float()
    _lower(model, "bf16")
    seen = _watch(model)
    model(batch([3, 5], dtype=torch.float32))
    assert seen == {True: {torch.float32}, False: set()}


def test_the_trained_part_keeps_the_precision_that_surrounds_it():
    model = make().float()
    _lower(model, "fp16")
    seen = _watch(model)
    with torch.autocast("cpu", torch.bfloat16):
        model(batch([3, 5, 4, 2], dtype=torch.float32))
    assert seen == {False: {torch.float16}, True: {torch.bfloat16}}


def test_stored_features_are_those_of_the_lower_precision():
    model = make(prompt_attention="read_only").float()
    inputs = batch([3, 5, 4, 2], dtype=torch.float32)["pixel_values"]
    exact = model.image_tower.features(inputs, None, "layers")
    _lower(model, "bf16")
    lowered = model.image_tower.features(inputs, None, "layers")
    assert lowered["memory"].dtype == torch.bfloat16  # half the memory until it is read
    assert lowered["output"].dtype == torch.float32
    for name, value in exact.items():
        assert_same(lowered[name], value, dtype=torch.bfloat16)


@pytest.mark.parametrize("precision", ["same", "bf16", "fp16"])
def test_the_cpu_can_do_all_of_them(precision):
    check_precision(precision, "cpu")


def test_a_device_that_cannot_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"encoders.precision is 'fp16'.* meta: .*to bf16"):
        check_precision("fp16", "meta")
    check_precision("same", "meta")


@pytest.mark.parametrize(
    ("able", "device", "dtype", "chosen"),
    [
        ({"avx512_bf16": True}, "cpu", torch.float32, "bf16"),
        ({"avx512_f": True, "amx_bf16": True}, "cpu", torch.float32, "bf16"),
        ({"neon": True, "bf16": True}, "cpu", torch.float32, "bf16"),
        ({"avx512_f": True, "avx512_bf16": False}, "cpu", torch.float32, "same"),
        ({"avx512_bf16": True}, "cpu", torch.bfloat16, "same"),
        ({"avx512_bf16": True}, "mps", torch.float32, "same"),
    ],
)
def test_auto_is_bfloat16_on_hardware_with_instructions_for_it(
    able, device, dtype, chosen, monkeypatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able, raising=False)
    assert choose_precision(device, dtype)[0] == chosen


@pytest.mark.parametrize(("able", "chosen"), [(True, "bf16"), (False, "same")])
def test_auto_on_a_gpu_leaves_emulation_out(able, chosen, monkeypatch):
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: able or including_emulation,
    )
    assert choose_precision("cuda", torch.float32)[0] == chosen


def test_products_are_exact_inside_alone_and_whatever_happens():
    products, (a, b) = torch.backends.mkldnn.matmul, torch.rand(2, 256, 256)
    exact, before = a @ b, products.fp32_precision
    products.fp32_precision = "bf16"
    try:
        with suppress(ZeroDivisionError), exact_products():
            assert torch.equal(a @ b, exact)
            raise ZeroDivisionError
        assert products.fp32_precision == "bf16"
    finally:
        products.fp32_precision = before


def test_an_encoder_is_compared_with_its_library_whatever_products_are_asked_for(tmp_path):
    name = write_hf(tmp_path, *TEXTS["BERT"]())
    torch.set_float32_matmul_precision("medium")
    try:
        build_text_encoder(name).require_layers()
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


HELD = {
    "AugReg and BERT": (("timm", VITS["AugReg"]), TEXTS["BERT"]),
    "DINOv3 and Qwen3": (("timm", EVAS["DINOv3"]), TEXTS["Qwen3"]),
    "SigLIP and ModernBERT": (("hf", IMAGES["SigLIP"]), TEXTS["ModernBERT"]),
    "ResNet and Gemma 3": (("timm", FEATURE_TIMMS["ResNet"]), TEXTS["Gemma 3, bidirectional"]),
}


@pytest.fixture
def sides(request, tmp_path):
    """Configs of both encoders of an entry of HELD."""
    (library, image), text = HELD[request.param]
    folder = tmp_path / "image"
    made = write_timm(folder, *image) if library == "timm" else write_hf(folder, *image())
    return EncoderConfig(made), EncoderConfig(write_hf(tmp_path / "text", *text()))


def _inputs(encoders):
    return {
        "pixel_values": encoders.image.example(4, 0, torch.Generator().manual_seed(1)),
        "input_ids": encoders.text.example(4, 7, torch.Generator().manual_seed(2)).clamp(min=3),
        "attention_mask": (torch.arange(7) < torch.tensor([[7], [5], [7], [3]])).long(),
    }


@pytest.mark.parametrize("sides", HELD, indirect=True)
def test_weights_held_in_bfloat16_give_nearly_the_same(sides):
    full = EncodersConfig(*sides).build()
    held = EncodersConfig(*sides, precision="bf16-true").build()
    for whole, half in zip(full, held, strict=True):
        assert type(half) is type(whole)
        assert bool(half.problem) == bool(whole.problem)
        assert half.fingerprint != whole.fingerprint
        for weight in half.parameters():
            assert weight.dtype == (torch.bfloat16 if weight.ndim > 1 else torch.float32)
    inputs = _inputs(full)
    methods = [NoPrompts(), LateFusionMLP()]
    if not full.image.problem:
        joint = {"num_prompts": 2, "hub_width": 8, "prompt_attention": "joint"}
        methods += [EPIC(**joint), EPIC(**joint | {"prompt_attention": "read_only"})]
    for method in methods:
        logits = []
        for encoders in (full, held):
            torch.manual_seed(0)
            model = method.build(encoders, 3).eval()
            logits.append(model(inputs).logits)
        logits[1].pow(2).sum().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert {x.dtype for x in (logits[1], *gradients)} == {torch.float32}
        difference = (logits[1] - logits[0]).abs().max()
        assert 0 < difference < 0.06 * logits[0].abs().max()


@pytest.mark.parametrize("method", [FullFineTuning(), LoRA()])
@pytest.mark.parametrize("sides", ["AugReg and BERT"], indirect=True)
def test_a_method_that_trains_inside_held_weights_is_refused(sides, method):
    encoders = EncodersConfig(*sides, precision="bf16-true").build()
    with pytest.raises(ConfigError, match=r"encoders\.precision bf16-true .* auto or bf16"):
        method.build(encoders, 3)
