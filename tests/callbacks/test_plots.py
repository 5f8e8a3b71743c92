import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tiny_runs
from epic_pl.callbacks import ConfusionMatrixPlot
from epic_pl.callbacks.plots import draw_confusion_matrix


def test_counts_accuracy_and_names_are_drawn():
    figure = draw_confusion_matrix(torch.tensor([[3, 1], [0, 2]]), ["$", "a_$b_$"])
    (axes,) = figure.axes
    assert axes.get_title("left") == "6 samples, accuracy 83.3%"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["$", "a_$b_$"]
    # text at (column, row): rows are the truth
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "3", (1, 0): "1", (1, 1): "2"}  # zeros are left out
    assert axes.get_xlabel() == "predicted"
    shades = axes.images[0].get_array()
    assert shades.tolist() == [[0.75, 0.25], [0, 1]]


def test_a_class_without_samples_is_drawn():
    figure = draw_confusion_matrix(torch.eye(20).long() * (torch.arange(20) > 0), list("x" * 20))
    assert len(figure.axes[0].texts) == 19
    assert figure.axes[0].get_title("left") == "19 samples, accuracy 100.0%"


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_test_draws_to_file_and_tensorboard_where_there_is_a_matrix(task, make, tmp_path):
    logger = TensorBoardLogger(tmp_path, name="runs")
    trainer = tiny_runs.trainer(tmp_path, callbacks=[ConfusionMatrixPlot()], logger=logger)
    rows = tiny_runs.samples(7, multilabel=task == "multilabel")
    trainer.test(make(task=task), tiny_runs.loader(rows, 3), verbose=False)
    path = tmp_path / "runs" / "version_0" / "confusion_matrix.png"
    assert path.is_file() == (task == "multiclass")
    log = EventAccumulator(str(path.parent))
    logger.finalize("success")
    log.Reload()
    assert log.Tags()["images"] == (["test/confusion_matrix"] if path.is_file() else [])
    if path.is_file():
        with Image.open(path) as image:
            assert min(image.size) > 300


def test_more_classes_than_a_matrix_can_show_have_none(make, tmp_path, monkeypatch):
    monkeypatch.setattr("epic_pl.callbacks.plots.MAX_CLASSES", 2)
    trainer = tiny_runs.trainer(tmp_path, callbacks=[ConfusionMatrixPlot()])
    trainer.test(make(), tiny_runs.loader(tiny_runs.samples()), verbose=False)
    assert not list(tmp_path.rglob("*.png"))
