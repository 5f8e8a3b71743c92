"""An export over an older one, killed at each step, leaves one model or none."""

import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from epic_pl.inference.export.folder import replace_model, write_folder
from epic_pl.inference.export.program import Probabilities, random_inputs
from epic_pl.inference.sharing import find_model
from epic_pl.utils.errors import CheckpointError

FILES = (
    "model.json",
    "model.onnx",
    "model.int8.onnx",
    "predict.py",
    "clean_text.py",
    "tokenizer/tokenizer.json",
)


def write(folder, content, names=FILES):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def replace_and_die(made, folder, steps):
    """Replace a model, and be killed before a step that changes the folder; code 0 if none is."""
    left = iter(range(steps))

    def dying(function):
        def step(*arguments, **options):
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return step

    Path.replace, Path.unlink = dying(Path.replace), dying(Path.unlink)
    shutil.rmtree = dying(shutil.rmtree)
    replace_model(made, folder)


@pytest.mark.parametrize("precision", ["same", "bf16", "bf16-true"])
def test_an_export_is_compared_with_the_model_as_it_was_tested(
    precision, make, tmp_path, monkeypatch
):
    """Without the translation itself: the program is the module in float32."""
    module = make(method="LateFusionMLP", encoders={"precision": precision}).eval()
    for parameter in module.model.head.parameters():
        torch.nn.init.normal_(parameter)
    eager = Probabilities(module.model, module.postprocessor)

    @torch.no_grad()
    def outputs():
        sizes = enumerate(((3, 8), (1, 2), (4, 3), (56, 8)), start=1)
        return torch.cat([eager(*random_inputs(module.model, *size, seed)) for seed, size in sizes])

    before = outputs()

    def decide(probabilities):
        return (1e4 * probabilities).round()  # a rule by which every rounding counts

    monkeypatch.setattr(module.postprocessor, "predict", decide)
    room = "epic_pl.inference.export.folder"
    monkeypatch.setattr(f"{room}.export_program", lambda eager: eager)
    monkeypatch.setattr(f"{room}.write_onnx", lambda program, path: path.touch())
    monkeypatch.setattr(f"{room}.load_program", lambda _: eager)
    written = write_folder(module, None, tmp_path / "made")
    assert all(tower.encoder.precision is None for tower in module.model.towers)
    after = outputs()
    assert written.as_tested == pytest.approx(float((after - before).abs().max()), abs=1e-6)
    differ = (decide(after) != decide(before)).any(dim=1).sum()
    assert written.decisions == f"{differ} of 64"
    assert (written.as_tested == 0) == (differ == 0) == (precision == "same")
    assert written.difference == 0  # in float32


@pytest.mark.parametrize("new", [FILES, (*FILES[:2], FILES[5])])
def test_an_export_that_is_killed_leaves_the_old_model_the_new_one_or_none(tmp_path, new):
    fork, seen = multiprocessing.get_context("fork"), []
    for steps in range(100):
        folder, made = tmp_path / f"old{steps}", tmp_path / f"new{steps}"
        write(folder, "old")
        (folder / "notes.txt").write_text("mine")
        process = fork.Process(
            target=replace_and_die, args=(write(made, "new", new), folder, steps)
        )
        process.start()
        process.join(60)
        assert (folder / "notes.txt").read_text() == "mine"
        if (folder / "model.json").exists():
            (folder / "notes.txt").unlink()
            texts = {str(p.relative_to(folder)): p.read_text() for p in folder.glob("**/*.*")}
            (age,) = set(texts.values())
            assert texts.keys() == set(FILES if age == "old" else new)
            seen.append(age)
        else:
            with pytest.raises(CheckpointError, match="no run or checkpoint"):
                find_model(folder)
            seen.append("none")
        if process.exitcode == 0:
            break
    assert seen[0] == "old"
    assert seen[-1] == "new"
    assert set(seen[1:-1]) == {"none"}
