"""The paired bootstrap against metrics of drawn rows, and on data with a known answer."""

import math

import numpy as np
import pytest
import torch

from epic_pl.experiments.compare import statistics
from epic_pl.experiments.compare.statistics import (
    TESTED,
    Predictions,
    bootstrap,
    holm,
    paired_difference,
)
from epic_pl.module.metrics import compute_metrics
from fake_runs import write_predictions

SAMPLES, CLASSES = 40, 7


@pytest.mark.parametrize("task", TESTED)
def test_metrics_of_a_draw_are_those_of_a_test_on_the_drawn_images(task, monkeypatch):
    monkeypatch.setattr(statistics, "_AT_A_TIME", 3)
    rng = np.random.default_rng(3)
    scores, ids = rng.random((SAMPLES, CLASSES)), [str(number) for number in range(SAMPLES)]
    scores[::3, 0] = 0.5  # which is assigned
    truth = rng.random((SAMPLES, CLASSES)) < 0.3
    if task == "multiclass":
        truth = np.eye(CLASSES, dtype=bool)[rng.integers(CLASSES, size=SAMPLES)]
    images, thresholds = (
        [str(number // 2) for number in range(SAMPLES)],
        [0.3, 0.4, 0.6] + [0.5] * 4,
    )
    run = Predictions(ids, images, truth, scores, task, thresholds)
    (values,) = bootstrap([run], TESTED[task], list(dict.fromkeys(images)), draws=6, seed=1)
    drawn = np.random.default_rng(1)
    counts = [np.ones(20, dtype=int), *drawn.multinomial(20, np.full(20, 1 / 20), size=6)]
    for number, images in enumerate(counts):
        rows = np.repeat(np.arange(SAMPLES), images.repeat(2))
        labels = torch.from_numpy(truth[rows]).int()
        labels = labels if task == "multilabel" else labels.argmax(dim=1)
        given = torch.from_numpy(scores[rows])
        expected = compute_metrics(task, given, labels)
        if task == "multilabel":
            expected |= compute_metrics(task, given, labels, torch.tensor(thresholds).double())
        for metric in TESTED[task]:
            assert values[metric][number] == pytest.approx(expected[metric], abs=1e-6)


def test_large_tests_have_fewer_draws(monkeypatch):
    monkeypatch.setattr(statistics, "_AFFORDABLE", 2000 * 8)
    assert (
        len(bootstrap([_run([True] * 4)], ["accuracy"], ["0", "1", "2", "3"])[0]["accuracy"])
        == 2001
    )
    monkeypatch.setattr(statistics, "_AFFORDABLE", 1)
    assert (
        len(bootstrap([_run([True] * 4)], ["accuracy"], ["0", "1", "2", "3"])[0]["accuracy"])
        == 1001
    )


@pytest.mark.parametrize(
    ("images", "groups"), [(None, ["a", "b", "c"]), (["x", "x", None], ["x", "x", "c"])]
)
def test_predictions_are_grouped_by_image_else_by_sample(tmp_path, images, groups):
    write_predictions(tmp_path, [2, 0, 1], [2, 1, 1], ["a", "b", "c"], images)
    read = Predictions.read(tmp_path / "predictions.parquet")
    assert (read.ids, read.groups, read.task) == (["a", "b", "c"], groups, "multiclass")
    assert read.truth.argmax(axis=1).tolist() == [2, 0, 1]
    assert read.scores.argmax(axis=1).tolist() == [2, 1, 1]


def _run(correct):
    """A run with two classes, of which the answers are right or wrong."""
    right = np.asarray(correct, dtype=bool)
    names = [str(number) for number in range(len(right))]
    truth = np.eye(2, dtype=bool)[np.zeros(len(right), dtype=int)]
    return Predictions(names, names, truth, np.eye(2)[1 - right], "multiclass")


def _compared(candidate, reference, draws=10_000, seed=0):
    """The difference in accuracy of runs, each given by which answers are right."""
    runs = [_run(correct) for correct in (*candidate, *reference)]
    values = [run["accuracy"] for run in bootstrap(runs, ["accuracy"], runs[0].ids, draws, seed)]
    return paired_difference(values[: len(candidate)], values[len(candidate) :])


def test_a_clear_difference_has_the_interval_of_the_paired_z_test():
    rng = np.random.default_rng(0)
    both = rng.random(800)  # difficulty of a sample, for either method
    better, worse = both + 0.1 * rng.random(800) < 0.8, both + 0.25 * rng.random(800) < 0.8
    result = _compared([better], [worse], draws=4000)
    differences = better.astype(float) - worse
    error = differences.std() / math.sqrt(800)
    assert result["difference"] == pytest.approx(differences.mean())
    assert result["low"] == pytest.approx(differences.mean() - 1.96 * error, abs=0.1 * error)
    assert result["high"] == pytest.approx(differences.mean() + 1.96 * error, abs=0.1 * error)
    assert result["p_value"] < 0.001


@pytest.mark.slow
def test_about_one_in_twenty_equal_methods_is_called_different():
    rng = np.random.default_rng(1)
    called = 0
    for number in range(300):
        one, other = (rng.random(150) < 0.7 for _ in range(2))
        called += _compared([one], [other], 400, seed=number)["p_value"] < 0.05
    assert 5 <= called <= 28  # 15 expected, standard deviation 3.8


@pytest.mark.parametrize(("groups", "won"), [(2, 1), (3, 1), (5, 2), (4, 4)])
def test_p_is_twice_the_chance_that_no_image_with_a_difference_is_drawn(groups, won):
    """With all differences on one side, only draws without any of them are not on that side."""
    better, same = np.arange(groups) < won, np.zeros(groups)
    expected = min(1.0, 2 * ((groups - won) / groups) ** groups)
    for one, other in ((better, same), (same, better)):
        assert _compared([one], [other])["p_value"] == pytest.approx(expected, abs=0.02)


def test_the_means_over_seeds_are_compared():
    same = np.arange(50) % 3 == 0
    assert list(_compared([same], [same, same]).values()) == [0, 0, 0, 1]
    right, wrong = np.ones(10), np.zeros(10)
    result = _compared([right, wrong], [wrong, wrong, wrong])
    assert result["difference"] == result["low"] == result["high"] == 0.5


def test_holms_correction_is_that_of_the_textbook():
    # by hand: 4 x 0.01, 3 x 0.02, 2 x 0.03 below the one before, 0.9
    assert holm([0.9, 0.03, 0.01, 0.02]) == pytest.approx([0.9, 0.06, 0.04, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []
