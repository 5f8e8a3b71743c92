"""Metrics from sums against torchmetrics, on all samples and on samples drawn again."""

import numpy as np
import pytest
import torch
from fake_runs import write_predictions

from epic_pl.experiments.compare.statistics import Predictions, sample_sums, value_of
from epic_pl.module.metrics import build_metrics

SAMPLES, CLASSES = 40, 7
METRICS = {
    "multiclass": ["accuracy", "accuracy_top5", "f1_macro"],
    "multilabel": ["f1_micro", "f1_macro", "f1_samples", "f1_weighted"],
}


def _predictions(task):
    rng = np.random.default_rng(3)
    scores = rng.random((SAMPLES, CLASSES))
    if task == "multiclass":
        # the last class is in no row and, having no score, never predicted
        scores[:, -1] = 0
        truth = np.eye(CLASSES, dtype=bool)[rng.integers(CLASSES - 1, size=SAMPLES)]
    else:
        truth = rng.random((SAMPLES, CLASSES)) < 0.3
        scores[:, -1] = truth[:, -1] = 0
    return Predictions([str(i) for i in range(SAMPLES)], truth, scores, task)


@pytest.mark.parametrize("task", METRICS)
def test_sums_give_what_torchmetrics_gives_of_samples_drawn_with_replacement(task):
    predictions = _predictions(task)
    rng = np.random.default_rng(4)
    draws = [np.arange(SAMPLES), *rng.integers(SAMPLES, size=(5, SAMPLES)), np.array([0, 0, 1])]
    weights = np.stack([np.bincount(drawn, minlength=SAMPLES) for drawn in draws]).astype(float)
    for metric in METRICS[task]:
        values = value_of(metric, weights @ sample_sums(metric, predictions), task)
        for drawn, value in zip(draws, values, strict=True):
            truth = torch.from_numpy(predictions.truth[drawn]).int()
            labels = truth if task == "multilabel" else truth.argmax(dim=1)
            expected = build_metrics(task, CLASSES, "")(
                torch.from_numpy(predictions.scores[drawn]).float(), labels
            )
            assert value == pytest.approx(float(expected[metric]), abs=1e-6), metric


def test_a_metric_that_is_no_function_of_sums_has_none():
    assert sample_sums("auroc", _predictions("multiclass")) is None
    assert sample_sums("ece", _predictions("multilabel")) is None


def test_predictions_are_read_as_they_were_written(tmp_path):
    write_predictions(tmp_path, [2, 0, 1], [2, 1, 1], ["a", "b", "c"])
    read = Predictions.read(tmp_path / "predictions.parquet")
    assert (read.ids, read.task) == (["a", "b", "c"], "multiclass")
    assert read.truth.argmax(axis=1).tolist() == [2, 0, 1]
    assert read.scores.argmax(axis=1).tolist() == [2, 1, 1]
