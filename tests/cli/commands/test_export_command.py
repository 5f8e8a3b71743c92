"""``epic-pl export`` through the real command line, and the example of docs/export.md."""

import json
import multiprocessing
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import tiny_runs
from epic_pl import Classifier
from epic_pl.cli.main import call, main
from epic_pl.inference.description import INPUTS
from epic_pl.inference.export.folder import Written, largest_difference
from epic_pl.inference.export.program import random_inputs
from epic_pl.inference.exported import load_program
from epic_pl.module import EPICModule
from tolerance import assert_same

FILES = [
    *(
        "cells.py",
        "clean_text.py",
        "decoding.py",
        "model.json",
        "model.onnx",
        "predict.py",
        "tokenizer",
    ),
    "untrusted.py",
]


@pytest.fixture(scope="session")
def biased(two_epochs):
    """The trained checkpoint with a bias of classes, for which its few rows are no evidence."""
    module = EPICModule.load_from_checkpoint(two_epochs.checkpoint)
    module.postprocessor.bias.copy_(torch.tensor([0.5, -0.25, -0.125]))
    tiny_runs.save(module, path := two_epochs.root / "biased.ckpt")
    return path


@pytest.fixture(scope="module")
def exported(biased):
    """Folder of the exported model."""
    folder = biased.parent / "exported"
    assert call("export", [str(biased), "--output", str(folder)]) == 0
    return folder


@pytest.fixture
def export(trained, told):
    """The command on the trained checkpoint or another model; later options win."""
    return lambda *options, model=trained.checkpoint: told("export", model, *options)


@pytest.fixture
def module(biased):
    return EPICModule.load_from_checkpoint(biased).eval()


@pytest.fixture(scope="module")
def program(exported):
    return load_program(exported / "model.onnx")


def _predicted(module, inputs):
    batch = dict(zip(INPUTS, inputs, strict=True))
    batch["sample_id"] = [str(row) for row in range(len(batch["input_ids"]))]
    with torch.no_grad():
        return module.predict_step(batch, 0)["probabilities"]


@pytest.mark.slow  # the translation takes 17 s
def test_the_program_gives_the_predictions_of_its_checkpoint_only(exported, program, module):
    assert sorted(path.name for path in exported.iterdir()) == FILES
    assert float(module.postprocessor.temperature) != 1
    assert module.postprocessor.bias.all()
    inputs = random_inputs(module.model, 4, 9)
    assert_same(program(*inputs), _predicted(module, inputs))
    assert largest_difference(program, module) <= 1e-5
    # used only where a text is absent
    missing = module.model.head.text.missing.data
    missing.add_(torch.linspace(-9, 9, len(missing)))
    assert largest_difference(program, module) > 1e-4


@pytest.mark.slow
def test_the_description_holds_classes_inputs_preprocessing_and_encoders(
    exported, module, tiny_vit_dir, tiny_tokenizer_dir
):
    said = json.loads((exported / "model.json").read_text())
    assert said["class_names"] == ["blue", "green", "red"]
    assert (said["task"], said["method"], said["thresholds"]) == ("multiclass", "EPIC", None)
    assert said["temperature"] == pytest.approx(float(module.postprocessor.temperature))
    image = {"size": 32, "crop_pct": 0.9, "resize": "crop"}
    image |= {"interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3}
    text = {"max_tokens": 64, "clean": False, "padded": False, "prompt": "", "pad_token": "[PAD]"}
    text |= {"truncation_side": "right", "tokenizer": module.processor.text.tokenizer}
    assert said["preprocessing"] == {"image": image, "text": text}
    assert list(said["inputs"]) == list(INPUTS)
    assert said["inputs"]["pixel_values"] == {"shape": ["B", 3, 32, 32], "dtype": "float32"}
    for role, name in (("image", tiny_vit_dir), ("text", tiny_tokenizer_dir)):
        assert said[f"{role}_encoder"] == module.checkpoint_info()[f"{role}_encoder"]
        assert said[f"{role}_encoder"]["name"] == str(name)
    assert said["versions"]["torch"] == torch.__version__
    tokenizer = AutoTokenizer.from_pretrained(exported / said["tokenizer"])
    original = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    assert tokenizer("a red house")["input_ids"] == original("a red house")["input_ids"]


@pytest.mark.slow
def test_no_path_of_this_machine_is_in_the_model(exported):
    content = (exported / "model.onnx").read_bytes()
    for path in (Path(torch.__file__).parent, Path(__file__).parents[3]):
        assert str(path).encode() not in content


@pytest.fixture
def moved(tiny_tokenizer_dir, tmp_path):
    """Options of an export to ``made`` with a text encoder that has no tokenizer."""
    bare = tmp_path / "bare"
    shutil.copytree(tiny_tokenizer_dir, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    return ["--text_encoder", bare, "--output", tmp_path / "made"]


def test_the_texts_of_a_checkpoint_of_our_data_need_its_tokenizer(export, moved, tmp_path):
    code, _, error = export(*moved)
    assert code == 1
    assert "tokenizer" in error
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
def test_a_multilabel_model_of_other_data_brings_its_thresholds_and_needs_no_tokenizer(
    make, export, moved, tmp_path
):
    module = make(method="LinearProbe", task="multilabel")
    trainer = tiny_runs.trainer(tmp_path, max_epochs=1)
    rows = tiny_runs.loader(tiny_runs.samples(multilabel=True))
    trainer.fit(module, rows, rows)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    code, said, error = export(*moved, model=tmp_path / "own.ckpt")
    assert code == 0, error
    assert "exported without a tokenizer" in said
    assert float(said.split("probabilities: ")[1].split()[0]) <= 1e-5
    about = json.loads((tmp_path / "made" / "model.json").read_text())
    assert about["thresholds"] == pytest.approx(module.postprocessor.thresholds.tolist())
    assert about["class_names"] == ["0", "1", "2"]
    assert about["preprocessing"] is about["tokenizer"] is None


@pytest.mark.slow
def test_a_folder_with_files_is_replaced_with_overwrite_only(
    export, exported, tmp_path, tiny_vit_dir
):
    output = shutil.copytree(exported, tmp_path / "full")
    shutil.copytree(tiny_vit_dir, tmp_path / "vit")
    (output / "notes.txt").write_text("mine")
    (output / "tokenizer" / "stale.txt").write_text("of another tokenizer")
    (output / "model.onnx").write_bytes(b"old")
    code, _, error = export("--output", output)
    assert code == 1
    assert "is not empty" in error
    assert "--overwrite" in error
    assert (output / "model.onnx").read_bytes() == b"old"
    moved = ["--image_encoder", tmp_path / "vit"]
    code, _, error = export("--output", output, "--overwrite", *moved)
    assert code == 0, error
    assert sorted(path.name for path in output.iterdir()) == sorted([*FILES, "notes.txt"])
    assert not (output / "tokenizer" / "stale.txt").exists()
    assert (output / "model.onnx").stat().st_size > 10_000
    about = json.loads((output / "model.json").read_text())
    assert about["image_encoder"]["name"] == str(tmp_path / "vit")


def export_without_room(checkpoint, output):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    main(["export", checkpoint, "--output", str(output)])


@pytest.mark.slow
def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(trained, tmp_path, capfd):
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=export_without_room, args=(trained.checkpoint, tmp_path / "made"))
    process.start()
    process.join(120)
    assert (process.exitcode, "File too large" in capfd.readouterr().err) == (1, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("difference", "shown"), [(float("nan"), "nan"), (2e-4, "2.0e-04")])
def test_nothing_is_written_if_probabilities_differ_from_the_checkpoint(
    export, tmp_path, monkeypatch, difference, shown
):
    path = "epic_pl.inference.export.folder.largest_difference"
    monkeypatch.setattr(path, lambda *_: difference)
    code, _, error = export("--output", tmp_path / "made")
    assert code == 1
    assert f"probabilities differ by {shown}, more than 1e-04" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"model": "nowhere.ckpt"}, "There is no run or checkpoint at nowhere.ckpt"),
        ({"model": "table.csv"}, "cannot be read as a checkpoint"),
        ({"output": "table.csv"}, "is a file"),
        ({"image_encoder": "other"}, "trained on the image encoder"),  # of other weights
    ],
)
def test_bad_paths_and_other_encoders_are_one_error(
    options, part, export, tiny_vit_dir, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("table.csv").touch()
    weights = shutil.copytree(tiny_vit_dir, tmp_path / "other") / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    own = {"output": "never"} | options
    model = {"model": own.pop("model")} if "model" in own else {}
    code, _, error = export(*(f"--{name}={value}" for name, value in own.items()), **model)
    assert code == 1
    assert part in error
    assert not Path("never").exists()


@pytest.mark.parametrize("command", ["export", "explain", "predict", "test", "embed"])
def test_saved_and_exported_models_are_taken_or_the_message_says_what_is(
    command, trained, exported, told, tmp_path, monkeypatch
):
    room, written = "epic_pl.inference.export.folder.write_folder", []
    made = Written(0, 0, "")
    monkeypatch.setattr(room, lambda *given: written.append(given[0].digest()) or made)
    classifier, saved = Classifier.load("runs", device="cpu"), tmp_path / "saved"
    classifier.save_pretrained(saved)
    description = tmp_path / "described"
    description.mkdir()
    shutil.copy(exported / "model.json", description)
    shutil.copy(exported / "model.onnx", description)
    for folder in (saved, description):
        if command == "embed":
            given = [folder, "data/images", "--output", tmp_path / "made"]
        else:
            config = [] if command == "export" else ["--config", trained.config]
            model = [folder] if command in ("export", "explain") else ["--ckpt_path", folder]
            given = [*model, *config]
            given += ["--output", tmp_path / "made"] if command == "export" else []
        code, _, error = told(command, *given)
        if folder == saved and command in ("export", "embed"):
            assert code == 0, error
            continue
        assert code == 1
        if command == "export":
            assert "is an exported model: give its run or" in error
        elif command != "embed":
            assert f"There is no run or checkpoint at {folder}" in error
            assert "embed, serve, app and export also take saved models" in error
    if command == "export":
        assert written == [classifier.digest]


@pytest.mark.parametrize("where", ["runs/fit/version_0", "best"])
def test_a_run_is_named_as_for_the_other_commands(where, trained, told, tmp_path, monkeypatch):
    room = "epic_pl.inference.export.folder.write_folder"
    monkeypatch.setattr(room, lambda *_: Written(0, 0, ""))
    config = ["--config", trained.config]
    for options in [config] if where == "best" else [config, []]:
        code, said, error = told("export", where, "--output", tmp_path, *options)
        assert code == 0, error
        assert f"checkpoints/last.ckpt exported to {tmp_path}" in said
    if not Path(where).exists():
        code, _, error = told("export", where, "--output", tmp_path)
        assert (code, f"{where} needs the config of the run" in error) == (1, True)
