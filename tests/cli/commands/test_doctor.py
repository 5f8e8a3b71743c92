"""``epic-pl doctor``: each thing that may be wrong, made wrong."""

import importlib.metadata

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


def test_a_sound_machine(ask, tiny_vit_dir, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some GPU")
    code, text = ask()
    assert code == 0
    assert "wrong" not in text
    assert f"torch {torch.__version__}, Some GPU" in text
    assert f"image encoder {tiny_vit_dir}: on this machine" in text


def test_it_runs_without_arguments(told):
    assert "pypi:dinov2-small" in told("doctor")[1]


@pytest.mark.parametrize(
    ("extra", "package"),
    [("app", "gradio"), ("ray", "ray"), ("tune", "optuna"), ("demo", "resvg-py")],
)
def test_every_extra_of_the_package_is_looked_at(extra, package, ask, monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == package:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(doctor, "version", version)
    code, text = ask()
    assert code == 0
    assert f"extra {extra}: {package} is missing: pip install 'epic_pl[{extra}]'" in text
    assert "extra data" not in text


def test_a_required_package_that_is_old_is_wrong(ask, monkeypatch):
    real = importlib.metadata.version
    monkeypatch.setattr(
        doctor, "version", lambda name: "1.0" if name == "lightning" else real(name)
    )
    code, text = ask()
    assert code == 1
    assert text.count("lightning is 1.0, not >=2.6.6: install epic_pl again") == 1
    assert "extra" not in text.partition("lightning is 1.0")[0]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("pypi:resnet", "There is no encoder 'pypi:resnet'"),
        ("vit_tiny_patch16_224", "wrong: "),
    ],
)
def test_encoders_out_of_reach(name, part, ask, cache):
    code, text = ask(image=name)
    assert code == 1
    assert part in text


@pytest.mark.parametrize("there", [True, False])
def test_the_hub_is_asked_for_an_encoder(there, ask, monkeypatch):
    asked = []

    def model_info(source, revision, timeout):
        asked.append((source, revision))
        if not there:
            raise OSError("no such repository")

    monkeypatch.setattr(doctor, "model_info", model_info)
    code, text = ask(image="vit_tiny_patch16_224@abc")
    assert asked == [("timm/vit_tiny_patch16_224", "abc")]
    assert code == (0 if there else 1)
    assert ("on this machine or the hub" if there else "wrong: no such repository") in text
