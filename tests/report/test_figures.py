"""Figures of a report."""

import torch

from epic_pl.module.evaluator import Evaluator
from epic_pl.module.outputs import SplitOutputs
from epic_pl.module.postprocess import Postprocessor
from epic_pl.report.figures import confusion_counts, draw_confusion_matrix


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


def test_counts_are_of_calibrated_answers():
    post = Postprocessor("multiclass", 2)
    post.bias.copy_(torch.tensor([0.6, -0.6]))  # the second row changes its class
    outputs = SplitOutputs(torch.tensor([[0.0, 2], [0, 1], [1, 0]]), torch.tensor([1, 1, 0]))
    counts = confusion_counts(Evaluator(["a", "b"], post), outputs)
    assert counts.tolist() == [[1, 0], [1, 1]]


def test_a_class_without_samples_is_drawn():
    figure = draw_confusion_matrix(torch.eye(20).long() * (torch.arange(20) > 0), list("x" * 20))
    assert len(figure.axes[0].texts) == 19
    assert figure.axes[0].get_title("left") == "19 samples, accuracy 100.0%"
