"""A method, a loss, an encoder and a module of another package, on every road of this one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tiny_runs
from epic_pl import Classifier
from epic_pl.cli.main import main
from epic_pl.utils.plugins import IMPORTED
from tolerance import assert_same

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_method"
OWN_PACKAGE = """
from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from epic_pl import EPICModule
from epic_pl.module import Loss
from epic_pl.nn.encoders import TimmViTEncoder, build_image_encoder


class _Brier(nn.Module):
    def __init__(self, scale, classes):
        super().__init__()
        self.scale, self.classes = scale, classes

    def forward(self, logits, labels):
        return self.scale * (logits.softmax(1) - F.one_hot(labels, self.classes)).square().mean()


@dataclass(frozen=True)
class Brier(Loss):
    scale: float = 2.0

    def build(self, task, num_classes, class_frequencies):
        return _Brier(self.scale, num_classes)


class Family(TimmViTEncoder):
    @classmethod
    def from_name(cls, name, *, revision, pretrained, pooling, image_size=None, **running):
        vit = build_image_encoder(name, pretrained=pretrained).model
        return cls(vit, pooling, **running)


class Scaled(EPICModule):
    def __init__(self, *given, extra: float = 0.5, **options):
        super().__init__(*given, **options)
        self.save_hyperparameters("extra")
        self.extra = extra

    def compute_loss(self, logits, labels, batch):
        return super().compute_loss(logits, labels, batch) * self.extra
"""


@pytest.fixture(autouse=True)
def _no_package_of_another_test():
    IMPORTED.clear()


@pytest.fixture(scope="module")
def run(tmp_path_factory, request):
    """Runs code or a command in a process that has imported nothing of the package before."""
    root = tmp_path_factory.mktemp("own")
    (root / "own_parts.py").write_text(OWN_PACKAGE)
    tests = Path(__file__).parent
    path = os.pathsep.join([str(EXAMPLE), str(root), str(tests)])

    def run(*words, cwd=root, path=path):
        path = os.pathsep.join([path, os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(
            [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True
        )

    run.root = root
    return run


@pytest.fixture(scope="module")
def fitted(run, tiny_vit_dir, tiny_tokenizer_dir):
    """A run of the example's method with a loss, an encoder and a module of another package."""
    tiny_runs.table(run.root / "data", train=8)
    config = tiny_runs.table_config(run.root / "data", tiny_vit_dir, tiny_tokenizer_dir)
    options = ["--model=own_parts.Scaled", "--model.extra=0.25", "--model.loss=own_parts.Brier"]
    options += ["--model.encoders.image.family=own_parts.Family", "--model.loss.scale=3"]
    options += ["--model.method=own_method.Gated", "--model.method.width=8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(run.root)
        patch.syspath_prepend(EXAMPLE)
        patch.chdir(run.root)
        main(["fit", "--config", str(config), *options])
    (best,) = run.root.rglob("last.ckpt")
    return best


def test_a_run_of_another_packages_classes_keeps_their_names(fitted):
    content = torch.load(fitted, weights_only=True)
    options, info = content["hyper_parameters"], content["epic_pl"]
    assert options["method"]["class_path"] == "own_method.Gated"
    assert options["method"]["init_args"]["width"] == 8
    assert options["loss"] == {"class_path": "own_parts.Brier", "init_args": {"scale": 3.0}}
    assert options["encoders"]["image"]["family"] == "own_parts.Family"
    assert (info["module"], options["extra"]) == ("own_parts.Scaled", 0.25)
    assert content["state_dict"]["model.gate.0.weight"].shape[0] == 8


ITEM = [{"text": "a red square"}]
ELSEWHERE = f"""
import json, sys
from epic_pl import Classifier
from epic_pl.cli.main import main
from epic_pl.utils.errors import EpicError
checkpoint, saved = sys.argv[1:]
command = ["export", checkpoint, "--output", "exported"]
for trust in ([], ["own_method"]):
    for path in (checkpoint, saved):
        try:
            Classifier.load(path, trust=trust)
        except EpicError as error:
            print(error)
assert "own_parts" not in sys.modules
try:
    main([*command, "--import", "own_method", "--import=own_parts"])
except SystemExit as end:
    assert end.code == 0
for path in (checkpoint, saved):
    model = Classifier.load(path, trust=["own_method", "own_parts"], device="cpu")
    print(model.module.extra, json.dumps(model({ITEM})))
"""


def _scores(classifier):
    return {each["label"]: each["score"] for each in classifier(ITEM)[0]}


@pytest.mark.slow
def test_a_file_never_imports_and_loads_and_exports_where_its_packages_are_named(fitted, run):
    ours = Classifier.load(fitted, trust=["own_method", "own_parts"], device="cpu")
    ours.save_pretrained(run.root / "saved")
    done = run("-c", ELSEWHERE, str(fitted), "saved")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    refused, (answer, again) = lines[:4], lines[-2:]
    for said in refused[:2]:
        assert "needs the Method 'own_method.Gated'" in said
        assert "give --import own_method, or in Python trust=['own_method']" in said
    assert ["own_parts" in said for said in refused[2:]] == [True, True]
    assert answer == again
    expected = {each["label"]: each["score"] for each in json.loads(answer[5:])[0]}
    assert answer.startswith("0.25 ")
    assert_same(_scores(ours), expected)
    # an exported model needs nothing of the packages
    exported = Classifier.load(run.root / "exported")
    assert_same(_scores(exported), expected)


@pytest.fixture
def gated(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    from own_method import Gated

    return Gated


def test_the_classifier_trains_saves_and_serves_it(
    gated, workdir, tiny_vit_dir, tiny_tokenizer_dir, started
):
    table = tiny_runs.table(workdir / "data", train=8)
    encoders = {"image": {"name": str(tiny_vit_dir)}, "text": {"name": str(tiny_tokenizer_dir)}}
    options = {"model.encoders": encoders, "trainer.max_epochs": 1, "trainer.accelerator": "cpu"}
    trained = Classifier.train(
        table, label="label", split="split", method=gated(width=4), options=options, device="cpu"
    )
    assert trained.module.method == gated(width=4)
    with started(trained) as client:
        answer = client.post("/classify", json={"text": "a red square"}).json()
    (direct,) = trained([{"text": "a red square"}])
    assert answer["labels"][0]["label"] == direct[0]["label"]


@pytest.mark.slow
def test_compare_takes_it_beside_others(
    gated, workdir, tiny_vit_dir, tiny_tokenizer_dir, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLE))
    tiny_runs.table(workdir / "data", train=8)
    config = tiny_runs.table_config(workdir / "data", tiny_vit_dir, tiny_tokenizer_dir)
    given = ["--config", str(config), "--trainer.max_epochs=1", "--seeds=1", "--output=out"]
    with pytest.raises(SystemExit) as end:
        main(["compare", *given, "--methods", "EPIC,own_method.Gated"])
    assert end.value.code == 0
    table = (workdir / "out" / "comparison.md").read_text()
    assert "own_method.Gated" in table


@pytest.mark.slow
def test_an_installed_plug_in_is_known_by_its_class_name(run, tmp_path, tiny_vit_dir):
    # building leaves files beside the sources
    source, site = shutil.copytree(EXAMPLE, tmp_path / "source"), tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(site)]
    subprocess.run([*pip, str(source)], check=True, capture_output=True)
    names = "from epic_pl.utils.plugins import *\nfrom epic_pl.nn import Method\n"
    found = "find_class(Method, 'own_method.Gated', 'a file') is find_class(Method, 'Gated')"
    code = f"{names}print({found})"
    done = run("-c", code, path=str(site))
    assert done.stdout.split() == ["True"], done.stderr
