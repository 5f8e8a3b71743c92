"""What ``fit``, ``validate`` and ``test`` say on the terminal."""

from types import SimpleNamespace

import pytest
import torch

import tiny_runs
from epic_pl.run.epic_cli import run, show_scores
from epic_pl.run.progress_bar import ProgressBar


@pytest.fixture
def config(workdir, tiny_vit_dir, tiny_tokenizer_dir, monkeypatch):
    monkeypatch.setattr("sys.argv", ["epic-pl"])
    tiny_runs.table(workdir / "data")
    return str(tiny_runs.table_config(workdir / "data", tiny_vit_dir, tiny_tokenizer_dir))


def test_the_bar_shows_loss_and_monitored_metric_and_scores_are_in_percent(config, capsys):
    bar = "--trainer.enable_progress_bar=true"
    trainer = run(["fit", "--config", config, bar, "--trainer.max_epochs=2"]).trainer
    assert isinstance(trainer.progress_bar_callback, ProgressBar)
    shown = trainer.progress_bar_callback.get_metrics(trainer, trainer.lightning_module)
    assert [*shown] == ["train/loss", "val/accuracy"]  # no time is left
    assert shown["val/accuracy"] == f"{float(trainer.callback_metrics['val/accuracy']):.1%}"
    assert "Training: 2 epochs of 3 steps" in capsys.readouterr().out
    cli = run(["test", "--config", config, bar, "--ckpt_path", "best"])
    printed = capsys.readouterr().out
    assert f"{float(cli.trainer.callback_metrics['test/accuracy']):.1%}" in printed
    assert "DataLoader 0" not in printed
    rows = len(cli.datamodule.dataset("test"))
    labels = torch.tensor([cli.datamodule.dataset("test").row(n)["label"] for n in range(rows)])
    share = labels.bincount().max() / rows
    assert f"on {rows} rows; the most frequent class, " in printed
    assert printed.rstrip().endswith(f"has {share:.1%}")


def test_the_time_left_is_that_of_the_steps_left(monkeypatch):
    bar, clock = ProgressBar(), iter([100.0, 130.0])
    monkeypatch.setattr("epic_pl.run.progress_bar.time.monotonic", lambda: next(clock))
    trainer = SimpleNamespace(
        global_step=10, estimated_stepping_batches=40, progress_bar_metrics={"v_num": 3}, loggers=[]
    )
    monkeypatch.setattr(
        "lightning.pytorch.callbacks.RichProgressBar.on_train_start", lambda *_: None
    )
    bar.on_train_start(trainer, None)
    trainer.global_step = 20  # ten steps in 30 s
    assert bar.get_metrics(trainer, None) == {"left": "0:01:00"}


def test_of_several_labels_the_most_frequent_one_is_named(capsys):
    labels = torch.tensor([[1, 0, 1], [0, 0, 1], [0, 1, 0], [0, 0, 1]])
    outputs = SimpleNamespace(merged=lambda: SimpleNamespace(labels=labels))
    module = SimpleNamespace(outputs=outputs, class_names=["a", "b", "c"])
    show_scores(module, [{"test/map": 0.51666, "test/loss": 0.5}])
    printed = capsys.readouterr().out
    assert "51.7%" in printed
    assert "0.500" in printed
    assert printed.endswith("on 4 rows; the most frequent class, c, has 75.0%\n")
