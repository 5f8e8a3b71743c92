import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, average_precision_score, f1_score, roc_auc_score
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from epic_pl.module import metrics as module_metrics
from epic_pl.module.evaluator import Evaluator
from epic_pl.module.metrics import build_metrics, compute_metrics, metric_inputs
from epic_pl.module.outputs import SplitOutputs
from epic_pl.module.postprocess import (
    Postprocessor,
    calibration_error,
    reliability_bins,
)
from epic_pl.report.tables import class_table
from tolerance import assert_same


def measured(task, scores, labels, splits=(0, 7, 8, 30)):
    """Metrics over batches of unequal size."""
    metrics, scores = build_metrics(task, scores.shape[1], "test/"), metric_inputs(task, scores)
    edges = [*splits, len(scores)]
    for start, stop in itertools.pairwise(edges):
        metrics.update(scores[start:stop], labels[start:stop])
    return {name: value.item() for name, value in metrics.compute().items()}


@pytest.mark.parametrize("num_classes", [2, 5, 9])
def test_multiclass_metrics(num_classes):
    probabilities = torch.randn(50, num_classes).softmax(dim=1)
    labels = torch.randint(num_classes, (50,))
    predicted = probabilities.argmax(dim=1)
    expected = {
        "test/accuracy": accuracy_score(labels, predicted),
        "test/f1_macro": f1_score(labels, predicted, average="macro"),
    }
    if num_classes > 5:
        hits = [
            int(label in sorted(range(num_classes), key=lambda c, row=row: -row[c])[:5])
            for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True)
        ]
        assert 0 < sum(hits) < 50
        expected["test/accuracy_top5"] = sum(hits) / 50
    assert_same(measured("multiclass", probabilities, labels), expected)


@pytest.mark.parametrize("case", ["mixed", "empty rows", "a label that never occurs"])
def test_multilabel_metrics(case):
    probabilities, labels = torch.rand(50, 4), (torch.rand(50, 4) < 0.3).int()
    # nothing true and nothing predicted counts as 0, as scikit-learn has it
    if case == "empty rows":
        probabilities[:20], labels[:20] = 0.1, 0
    elif case == "a label that never occurs":
        probabilities[:, 2], labels[:, 2] = 0.1, 0
    probabilities[30:33] = 0.5  # which is assigned, as in predictions
    predicted = probabilities >= 0.5
    expected = {
        f"test/f1_{average}": f1_score(labels, predicted, average=average, zero_division=0)
        for average in ("micro", "macro", "samples", "weighted")
    }
    assert len({round(score, 6) for score in expected.values()}) == 4  # a mix-up would show
    assert_same(measured("multilabel", probabilities, labels), expected)


@pytest.mark.parametrize(
    ("task", "classes"), [("multiclass", 2), ("multiclass", 7), ("multilabel", 4)]
)
def test_metrics_of_a_split_are_those_of_its_batches(task, classes, monkeypatch):
    monkeypatch.setattr(module_metrics, "_AT_A_TIME", 8)
    scores, labels = torch.rand(50, classes), torch.randint(classes, (50,))
    if task == "multilabel":
        labels = F.one_hot(labels, classes)
        given = compute_metrics(task, labels, labels)  # 0/1 in place of probabilities
        assert given == dict.fromkeys(given, 1.0)
    split = compute_metrics(task, scores, labels)
    batches = measured(task, scores, labels)
    if task == "multilabel":
        ranking = {"test/map": average_precision_score(labels, scores)}
    else:
        truth = F.one_hot(labels, classes)
        kept = slice(1, None) if classes == 2 else slice(None)
        ranking = {"test/auroc": roc_auc_score(truth[:, kept], scores[:, kept])}
    batches |= ranking
    assert {f"test/{name}": value for name, value in split.items()} == pytest.approx(batches)
    empty = compute_metrics(task, scores[:0], labels[:0])
    assert empty == pytest.approx(dict.fromkeys(split, math.nan), nan_ok=True)


# torchmetrics merges metrics of a collection that agree after the first batch, by default
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_metrics_stay_apart_after_a_perfect_first_batch(task):
    labels = torch.randint(7, (60,)) if task == "multiclass" else torch.randint(2, (60, 7))
    scores = torch.rand(60, 7)
    scores[:20] = F.one_hot(labels[:20], 7) if task == "multiclass" else labels[:20]
    together = measured(task, scores, labels, splits=(0, 20, 35))
    alone = {}
    for name, metric in build_metrics(task, 7, "test/").items():
        metric.update(scores, labels)
        alone[name] = metric.compute().item()
    assert together == pytest.approx(alone)
    assert len({round(value, 6) for value in together.values()}) == len(together)


class _Largest(TorchDispatchMode):
    """Notes the most elements that one tensor had."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = [each for each in tree_leaves(result) if isinstance(each, torch.Tensor)]
        self.elements = max([self.elements, *(each.numel() for each in made)])
        return result


# f1_macro used to count each batch in an array (C, C): 80 GB for 100 000 classes
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_nothing_grows_with_the_square_of_the_number_of_classes(task):
    classes, rows = 5000, 8
    scores = torch.rand(rows, classes)
    labels = torch.randint(classes, (rows,))
    if task == "multilabel":
        labels = F.one_hot(labels, classes)
    names = [str(index) for index in range(classes)]
    evaluator = Evaluator(names, Postprocessor(task, classes))
    outputs = SplitOutputs(scores, labels)
    with _Largest() as largest:
        measured(task, scores.softmax(dim=1), labels, splits=[0])
        calibration_error(reliability_bins(scores, labels))
        Postprocessor(task, classes).fit(scores, labels)
    assert largest.elements < 1000 * classes
    with _Largest() as largest:
        assert len(class_table(evaluator, outputs)) == classes
    assert largest.elements <= rows * classes
