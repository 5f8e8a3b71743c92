"""``epic-pl doctor``: versions, devices, and encoders that can or cannot be reached."""

import re

import pytest
import torch

from epic_pl.cli.commands import doctor

CONFIG = "model: {{encoders: {{image: {{name: {image}}}, text: {{name: {text}}}}}}}\n"


@pytest.fixture
def ask(told, workdir, tiny_vit_dir, tiny_tokenizer_dir):
    """The doctor's exit code, and what it says; encoders are folders unless they are named."""

    def ask(image=tiny_vit_dir, text=tiny_tokenizer_dir):
        (workdir / "mine.yaml").write_text(CONFIG.format(image=image, text=text))
        return told("doctor", "--config", "mine.yaml")[:2]

    return ask


def test_a_sound_machine(ask, told, tiny_vit_dir, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some GPU")
    code, text = ask()
    assert code == 0
    assert "wrong" not in text
    assert f"torch {torch.__version__}, Some GPU" in text
    assert f"image encoder {tiny_vit_dir}: on this machine" in text
    assert "pypi:dinov2-small" in told("doctor")[1]  # without a config that of tables


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("pypi:resnet", "There is no encoder 'pypi:resnet'"),
        ("vit_tiny_patch16_224", "wrong: .* set HF_HUB_OFFLINE=1"),
    ],
)
def test_encoders_out_of_reach(name, part, ask, cache):
    code, text = ask(image=name)
    assert code == 1
    assert re.search(part, text)


def test_the_hub_is_asked_for_an_encoder(ask, monkeypatch):
    asked = []
    monkeypatch.setattr(doctor, "model_info", lambda source, **options: asked.append(source))
    code, text = ask(image="vit_tiny_patch16_224@abc")
    assert (code, asked) == (0, ["timm/vit_tiny_patch16_224"])
    assert "on this machine or the hub (timm/vit_tiny_patch16_224)" in text
