"""The terminal of fit, validate, test and predict, in a pipe and in a terminal."""

import re

import pytest
from rich import reconfigure

import tiny_runs
from epic_pl.run.epic_cli import build, run, show_scores
from epic_pl.run.progress_bar import ProgressBar

pytestmark = pytest.mark.usefixtures("workdir")

LOADED = ["--ckpt_path", "last"]


def test_each_command_ends_with_its_result_below_one_bar(config, capsys, recwarn):
    run(["fit", "--config", config, "--trainer.max_time=00:01:00:00"])
    said = capsys.readouterr().out
    assert said.count("Training: 2 epochs of 3 steps\n") == 1
    bars = re.findall(r"^Epoch .*$", said, re.MULTILINE)
    metrics = r"train/loss: \d+\.\d{3} val/accuracy: \d+\.\d%"
    assert len(bars) == 1, bars
    assert re.fullmatch(rf"Epoch 1/1 .* 3/3 {metrics} *", bars[0])
    assert "v_num" not in said
    assert said.endswith(f"{bars[0]}\n")
    recwarn.clear()
    for command, bar, split, rows, share in (
        ("validate", "Validation", "val", 4, "50.0%"),
        ("test", "Testing", "test", 7, "42.9%"),
    ):
        trainer = run([command, "--config", config, *LOADED]).trainer
        said = capsys.readouterr().out
        score = trainer.callback_metrics[f"{split}/accuracy"]
        place = said.index(f"{bar} ━")
        assert re.search(rf"{split}/accuracy +│ +{score:.1%} ", said[place:])
        assert re.search(rf"{split}/loss +│ +\d+\.\d{{3}} ", said[place:])
        assert said.endswith(f"on {rows} rows; the most frequent class, blue, has {share}\n")
        assert "DataLoader" not in said
    run(["test", "--config", config, *LOADED, "--verbose=false"])
    assert "most frequent" not in capsys.readouterr().out
    run(["predict", "--config", config, *LOADED])
    assert capsys.readouterr().out.count("Predicting") == 1
    assert not [each for each in recwarn if "ckpt_path" in str(each.message)]


def test_the_bar_in_a_terminal_is_one_line_with_the_time_left(config, capsys):
    terminal = {"force_terminal": True, "width": 80, "legacy_windows": False}
    shown = []

    class Watched(ProgressBar):
        def get_metrics(self, trainer, model):
            shown.append(super().get_metrics(trainer, model))
            return shown[-1]

    try:
        built = build(["--config", config, "--trainer.logger=false"])
        assert type(built.trainer.callbacks[0]) is ProgressBar
        built.trainer.callbacks[0] = Watched(console_kwargs=terminal)
        built.trainer.fit(built.module, datamodule=built.data)
    finally:
        reconfigure()
    lines = capsys.readouterr().out.split("\n")
    assert any("val/accuracy" in line and "left: 0:0" in line for line in lines)
    assert not any(re.match(r"\s+(\d|left|val)", line) for line in lines)  # no wrapped column
    assert all(next(iter(each)) == "train/loss" for each in shown[2:])
    assert "left" not in shown[-1]  # nothing is left


def test_scores_of_several_labels_name_the_most_frequent(make, capsys):
    module = make(task="multilabel", class_names=["dog", "c[a]t", "owl"])
    loader = tiny_runs.loader(tiny_runs.samples(8, multilabel=True))
    trainer = tiny_runs.trainer(".")
    (scores,) = results = trainer.test(module, loader, verbose=False)
    capsys.readouterr()
    show_scores(module, results)
    said = capsys.readouterr().out
    assert f" {scores['test/f1_micro']:.1%} " in said
    counts = sum(batch["labels"].sum(dim=0) for batch in loader).tolist()
    name = module.class_names[counts.index(max(counts))]
    assert f"on 8 rows; the most frequent class, {name}, has {max(counts) / 8:.1%}\n" in said
