"""``epic-pl export`` through the real command line, and the example of docs/export.md."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer

import tiny_runs
from epic_pl.cli import main, run
from epic_pl.data import TableDataModule
from epic_pl.evaluation.export.folder import largest_difference
from epic_pl.evaluation.export.program import INPUTS, random_inputs
from epic_pl.module import EPICModule

PAGE = Path(__file__).parents[3] / "docs" / "export.md"
FILES = ["model.json", "model.pt2", "tokenizer"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_vit_dir, tiny_tokenizer_dir):
    """A run of the command line, and what it exported."""
    root = tmp_path_factory.mktemp("export")
    tiny_runs.table(root / "data")
    config = str(tiny_runs.table_config(root / "data", tiny_vit_dir, tiny_tokenizer_dir))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("sys.argv", ["epic-pl"])
        run(["fit", "--config", config, "--ema.decay", "0.5", "--model.optim.lr", "0.05"])
        (checkpoint,) = root.rglob("best.ckpt")
        with pytest.raises(SystemExit) as stop:
            main(["export", "--ckpt_path", str(checkpoint), "--output", "exported"])
    assert stop.value.code == 0
    return SimpleNamespace(root=root, checkpoint=str(checkpoint), folder=root / "exported")


@pytest.fixture(autouse=True)
def _there(trained, monkeypatch):
    monkeypatch.chdir(trained.root)
    monkeypatch.setattr("sys.argv", ["epic-pl"])


def _told(args, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["export", *args])
    return stop.value.code, capsys.readouterr()


def _program(folder):
    return torch.export.load(folder / "model.pt2").module()


def _predicted(module, inputs):
    batch = dict(zip(INPUTS, inputs, strict=True))
    batch["sample_id"] = [str(row) for row in range(len(batch["input_ids"]))]
    with torch.no_grad():
        return module.predict_step(batch, 0)["probabilities"]


def test_the_folder_holds_the_checkpoints_predictions(trained):
    assert sorted(path.name for path in trained.folder.iterdir()) == FILES
    module = EPICModule.load_from_checkpoint(trained.checkpoint).eval()
    assert float(module.postprocessor.temperature) != 1
    inputs = random_inputs(module.model, (32, 32), 4, 9)
    given = _program(trained.folder)(*inputs)
    torch.testing.assert_close(given, _predicted(module, inputs), rtol=0, atol=1e-5)


def test_the_description_holds_classes_inputs_preprocessing_and_encoders(
    trained, tiny_vit_dir, tiny_tokenizer_dir
):
    module = EPICModule.load_from_checkpoint(trained.checkpoint)
    said = json.loads((trained.folder / "model.json").read_text())
    assert said["class_names"] == ["blue", "green", "red"]
    assert (said["task"], said["method"], said["thresholds"]) == ("multiclass", "epic", None)
    assert said["temperature"] == pytest.approx(float(module.postprocessor.temperature))
    assert said["preprocessing"] == {
        "image": {
            "resize": 35,
            "crop_pct": 0.9,
            "size": 32,
            "interpolation": "bicubic",
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
        },
        "text": {"max_tokens": 64, "clean": False},
    }
    assert list(said["inputs"]) == list(INPUTS)
    assert said["inputs"]["pixel_values"] == {"shape": ["B", 3, 32, 32], "dtype": "float32"}
    for role, name in (("image", tiny_vit_dir), ("text", tiny_tokenizer_dir)):
        assert said[f"{role}_encoder"] == module.checkpoint_info()[f"{role}_encoder"]
        assert said[f"{role}_encoder"]["name"] == str(name)
    assert said["versions"]["torch"] == torch.__version__
    tokenizer = AutoTokenizer.from_pretrained(trained.folder / said["tokenizer"])
    original = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    assert tokenizer("a red house")["input_ids"] == original("a red house")["input_ids"]


@pytest.mark.slow
def test_the_pages_example_classifies_as_predict_does(trained, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if not re.match(r"import|from|$", line)]) <= 15
    with (trained.root / "data" / "table.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if row["split"] == "test")
    shutil.copytree(trained.folder, tmp_path / "exported")
    shutil.copy(trained.root / "data" / row["image"], tmp_path / "picture.png")
    (tmp_path / "example.py").write_text(
        'import sys\nsys.modules["epic_pl"] = None  # not there\n'
        + code.replace("a text that goes with it", row["text"])
    )
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    label, probability = done.stdout.split()
    module = EPICModule.load_from_checkpoint(trained.checkpoint).eval()
    data = TableDataModule(
        table=str(trained.root / "data" / "table.csv"),
        split_column="split",
        id_column="id",
        image_encoder=module.encoders.image.name,
        text_encoder=module.encoders.text.name,
    )
    data.setup("test")
    sample = data.dataset("test")[0]
    assert sample["sample_id"] == row["id"]
    (scores,) = module.predict_step(data.collator([sample]), 0)["probabilities"].detach()
    assert label == module.class_names[int(scores.argmax())]
    assert float(probability) == pytest.approx(float(scores.max()), abs=1e-5)


def test_a_multilabel_model_of_other_data_brings_its_thresholds_and_needs_no_tokenizer(
    trained, capsys, tiny_vit_dir, tiny_tokenizer_dir, tmp_path
):
    bare, folder = tmp_path / "bare", tmp_path / "made"
    shutil.copytree(tiny_tokenizer_dir, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    moved = ["--text_encoder", str(bare), "--output", str(folder)]
    code, said = _told(["--ckpt_path", trained.checkpoint, *moved], capsys)
    assert code == 1  # the texts of a checkpoint of our data need it
    assert "tokenizer" in said.err
    assert not folder.exists()

    module = tiny_runs.module(
        tiny_vit_dir, tiny_tokenizer_dir, method="linear_probe", task="multilabel"
    )
    trainer = tiny_runs.trainer(tmp_path, max_epochs=1)
    rows = tiny_runs.loader(tiny_runs.samples(multilabel=True))
    trainer.fit(module, rows, rows)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    code, said = _told(["--ckpt_path", str(tmp_path / "own.ckpt"), *moved], capsys)
    assert code == 0, said.err
    assert "exported without a tokenizer" in said.out
    assert float(said.out.split("probabilities: ")[1]) <= 1e-5
    about = json.loads((folder / "model.json").read_text())
    assert about["thresholds"] == pytest.approx(module.postprocessor.thresholds.tolist())
    assert about["class_names"] == ["0", "1", "2"]
    assert about["preprocessing"] is about["tokenizer"] is None
    inputs = random_inputs(module.model, (32, 32), 3, 4)
    expected = _predicted(module.eval(), inputs)
    torch.testing.assert_close(_program(folder)(*inputs), expected, rtol=0, atol=1e-5)


def test_a_folder_with_files_is_replaced_with_overwrite_only(
    trained, capsys, tmp_path, tiny_vit_dir
):
    output = tmp_path / "full"
    shutil.copytree(trained.folder, output)
    shutil.copytree(tiny_vit_dir, tmp_path / "vit")
    (output / "notes.txt").write_text("mine")
    (output / "tokenizer" / "stale.txt").write_text("of another tokenizer")
    (output / "model.pt2").write_bytes(b"old")
    args = ["--ckpt_path", trained.checkpoint, "--output", str(output)]
    code, said = _told(args, capsys)
    assert code == 1
    assert "is not empty" in said.err
    assert "--overwrite" in said.err
    assert (output / "model.pt2").read_bytes() == b"old"
    moved = ["--image_encoder", str(tmp_path / "vit")]
    code, said = _told([*args, "--overwrite", *moved], capsys)
    assert code == 0, said.err
    assert sorted(path.name for path in output.iterdir()) == [*FILES[:2], "notes.txt", FILES[2]]
    assert not (output / "tokenizer" / "stale.txt").exists()
    assert (output / "model.pt2").stat().st_size > 10_000
    about = json.loads((output / "model.json").read_text())
    assert about["image_encoder"]["name"] == str(tmp_path / "vit")


def test_nothing_is_written_if_probabilities_differ_from_the_checkpoint(
    trained, capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "epic_pl.evaluation.export.folder.largest_difference", lambda *_: float("nan")
    )
    output = tmp_path / "made"
    code, said = _told(["--ckpt_path", trained.checkpoint, "--output", str(output)], capsys)
    assert code == 1
    assert "differ from the checkpoint's by nan" in said.err
    assert list(tmp_path.iterdir()) == []


def test_the_comparison_notices_another_model(trained):
    module = EPICModule.load_from_checkpoint(trained.checkpoint).eval()
    path = trained.folder / "model.pt2"
    assert largest_difference(path, module) <= 1e-5
    # used only where a text is absent
    module.model.head.text.missing.data.add_(torch.linspace(-9, 9, 32))
    assert largest_difference(path, module) > 1e-4


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--ckpt_path", "nowhere.ckpt"], "There is no checkpoint at 'nowhere.ckpt'"),
        (["--ckpt_path", "data/table.csv"], "cannot be read as a checkpoint"),
        (["--output", "data/table.csv"], "is a file"),
    ],
)
def test_bad_paths_are_one_error(options, part, trained, capsys):
    args = ["--ckpt_path", trained.checkpoint, "--output", "never", *options]
    code, said = _told(args, capsys)
    assert code == 1
    assert part in said.err
    assert not (trained.root / "never").exists()
