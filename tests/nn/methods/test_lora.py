import builtins

import pytest
import torch
from base_encoders import count_trained
from tiny_models import batch, image_encoder, text_encoder

from epic_pl.errors import ConfigError
from epic_pl.nn.methods.fine_tuned import FineTuned
from epic_pl.nn.methods.linear_probe import LinearProbe
from epic_pl.nn.methods.lora import LoRA, LoRAConfig


def lora(**options):
    model = LoRA(image_encoder(), text_encoder(), 5, LoRAConfig(**options))
    return model.double().eval()


def test_two_matrices_beside_every_linear_layer():
    model = lora(rank=3)
    assert {tuple(p.shape) for n, p in model.named_parameters() if "lora_A" in n} == {
        (3, 32),
        (3, 64),
        (3, 24),
        (3, 48),
    }
    layers = {
        n.split(".lora_A")[0].rpartition(".encoder.model.")[2]
        for n, _ in model.named_parameters()
        if "lora_A" in n
    }
    blocks = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    bert = ("attention.self.query", "attention.self.key", "attention.self.value")
    bert += ("attention.output.dense", "intermediate.dense", "output.dense")
    assert layers == {f"blocks.{i}.{part}" for i in range(3) for part in blocks} | {
        f"encoder.layer.{i}.{part}" for i in range(3) for part in bert
    }


def test_training_starts_from_the_frozen_encoders():
    torch.manual_seed(0)
    probe = LinearProbe(image_encoder(), text_encoder(), 5).double().eval()
    model, made = lora(), batch([4, 2], [1, 0], [1, 1])
    model.head.load_state_dict(probe.head.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model(made), probe(made), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"rank": 2, "alpha": 3}], ids=str)
def test_every_layer_computes_with_its_merged_weight(options):
    # attention kernels that took the frozen weights past the matrices would show here
    model, made = lora(**options), batch([4, 2, 3], [1, 0, 1], [1, 1, 0])
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    merged = LinearProbe(image_encoder(), text_encoder(), 5).double().eval()
    merged.load_state_dict(merged_state(model), strict=True)
    plain = LinearProbe(image_encoder(), text_encoder(), 5).double().eval()
    plain.head.load_state_dict(model.head.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model(made), merged(made), rtol=0, atol=1e-9)
        assert not torch.allclose(model(made), plain(made), atol=1e-3)


def merged_state(model):
    """``W + (alpha / r) B A`` under the names of a model without LoRA."""
    state, scale = model.state_dict(), model.config.alpha / model.config.rank
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
        lora()
    FineTuned(image_encoder(), text_encoder(), 5)


@pytest.mark.parametrize(
    "options", [{"encoder_lr": -1.0}, {"rank": 0}, {"alpha": 0}, {"lora_dropout": 2.0}], ids=str
)
def test_impossible_options_are_refused_by_name(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        LoRAConfig(**options)


def test_base_encoders_count_what_their_matrices_are():
    # r (d_in + d_out) for each linear layer of one block, of one BERT layer
    block = 8 * ((768 + 2304) + (768 + 768) + 2 * (768 + 3072))
    layer = 8 * (4 * (768 + 768) + 2 * (768 + 3072))
    head = 2 * 2 * 768 + 2 * 768 * 101 + 101
    stand_ins = 2 * 768
    assert count_trained("lora") == 12 * (block + layer) + head + stand_ins == 2_666_597
