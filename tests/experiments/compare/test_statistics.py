"""Metrics from sums against torchmetrics, and the paired bootstrap on data with a known answer."""

import math

import numpy as np
import pytest
import torch
from fake_runs import write_predictions

from epic_pl.experiments.compare.statistics import (
    MAIN_METRIC,
    Predictions,
    holm,
    paired_bootstrap,
    sums_of_samples,
    value_of,
)
from epic_pl.module.metrics import compute_metrics

SAMPLES, CLASSES = 40, 7


@pytest.mark.parametrize("task", MAIN_METRIC)
def test_metrics_from_sums_are_those_of_a_test_on_resampled_data(task):
    rng = np.random.default_rng(3)
    scores, ids = rng.random((SAMPLES, CLASSES)), [str(number) for number in range(SAMPLES)]
    scores[::3, 0] = 0.5  # which is assigned
    truth = rng.random((SAMPLES, CLASSES)) < 0.3
    if task == "multiclass":
        truth = np.eye(CLASSES, dtype=bool)[rng.integers(CLASSES, size=SAMPLES)]
    sums = sums_of_samples(Predictions(ids, ids, truth, scores, task))
    for drawn in (np.arange(SAMPLES), *rng.integers(SAMPLES, size=(5, SAMPLES)), [0, 0, 1]):
        labels = torch.from_numpy(truth[drawn]).int()
        labels = labels if task == "multilabel" else labels.argmax(dim=1)
        expected = compute_metrics(task, torch.from_numpy(scores[drawn]), labels)
        value = value_of(np.bincount(drawn, minlength=SAMPLES) @ sums)
        assert value == pytest.approx(expected[MAIN_METRIC[task]], abs=1e-6)


@pytest.mark.parametrize(
    ("images", "groups"), [(None, ["a", "b", "c"]), (["x", "x", None], ["x", "x", "c"])]
)
def test_predictions_are_grouped_by_image_else_by_sample(tmp_path, images, groups):
    write_predictions(tmp_path, [2, 0, 1], [2, 1, 1], ["a", "b", "c"], images)
    read = Predictions.read(tmp_path / "predictions.parquet")
    assert (read.ids, read.groups, read.task) == (["a", "b", "c"], groups, "multiclass")
    assert read.truth.argmax(axis=1).tolist() == [2, 0, 1]
    assert read.scores.argmax(axis=1).tolist() == [2, 1, 1]


def _sums(correct):
    return np.stack([correct, np.ones(len(correct))], axis=1).astype(float)


def test_a_clear_difference_has_the_interval_of_the_paired_z_test():
    rng = np.random.default_rng(0)
    both = rng.random(800)  # difficulty of a sample, for either method
    better, worse = both + 0.1 * rng.random(800) < 0.8, both + 0.25 * rng.random(800) < 0.8
    result = paired_bootstrap([_sums(better)], [_sums(worse)], draws=4000)
    differences = better.astype(float) - worse
    error = differences.std() / math.sqrt(800)
    assert result["difference"] == pytest.approx(differences.mean())
    assert result["low"] == pytest.approx(differences.mean() - 1.96 * error, abs=0.1 * error)
    assert result["high"] == pytest.approx(differences.mean() + 1.96 * error, abs=0.1 * error)
    assert result["p_value"] < 0.001


def test_about_one_in_twenty_equal_methods_is_called_different():
    rng = np.random.default_rng(1)
    called = 0
    for number in range(300):
        one, other = (_sums(rng.random(150) < 0.7) for _ in range(2))
        called += paired_bootstrap([one], [other], 400, seed=number)["p_value"] < 0.05
    assert 5 <= called <= 28  # 15 expected, standard deviation 3.8


@pytest.mark.parametrize(("groups", "won"), [(2, 1), (3, 1), (5, 2), (4, 4)])
def test_p_is_twice_the_chance_that_no_image_with_a_difference_is_drawn(groups, won):
    """With all differences on one side, only draws without any of them are not on that side."""
    better, same = _sums(np.arange(groups) < won), _sums(np.zeros(groups))
    expected = min(1.0, 2 * ((groups - won) / groups) ** groups)
    for one, other in ((better, same), (same, better)):
        assert paired_bootstrap([one], [other])["p_value"] == pytest.approx(expected, abs=0.02)


def test_the_means_over_seeds_are_compared():
    same = _sums(np.arange(50) % 3 == 0)
    assert list(paired_bootstrap([same], [same, same]).values()) == [0, 0, 0, 1]
    right, wrong = _sums(np.ones(10)), _sums(np.zeros(10))
    result = paired_bootstrap([right, wrong], [wrong, wrong, wrong])
    assert result["difference"] == result["low"] == result["high"] == 0.5


def test_holms_correction_is_that_of_the_textbook():
    # by hand: 4 x 0.01, 3 x 0.02, 2 x 0.03 below the one before, 0.9
    assert holm([0.9, 0.03, 0.01, 0.02]) == pytest.approx([0.9, 0.06, 0.04, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []
