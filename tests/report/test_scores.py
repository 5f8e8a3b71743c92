"""Scores and tables of a report against scikit-learn, SciPy and counting by hand."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import f1_score, precision_recall_fscore_support

from epic_pl.module.evaluator import Evaluator
from epic_pl.module.outputs import SplitOutputs
from epic_pl.module.postprocess import Postprocessor
from epic_pl.report.figures import draw_figures
from epic_pl.report.scores import coverage_table, headline, label, wilson_interval
from epic_pl.report.tables import average_rows, class_table, confused_pairs

MULTICLASS = Evaluator(["a", "b", "c", "d"], Postprocessor("multiclass", 4))
MULTILABEL = Evaluator(["a", "b", "c", "d"], Postprocessor("multilabel", 4))


def _outputs(truth, predicted, sureness=5.0):
    """Outputs of samples whose answers are given, each with its logit."""
    logits = torch.nn.functional.one_hot(torch.tensor(predicted), 4).float()
    return SplitOutputs(logits * torch.tensor(sureness).reshape(-1, 1), torch.tensor(truth))


def _random(task, rows=200):
    """Random outputs in which class d never occurs, but is predicted."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, 4, generator=generator)
    if task == "multiclass":
        return SplitOutputs(logits, torch.randint(3, (rows,), generator=generator))
    labels = torch.randint(2, (rows, 4), generator=generator)
    labels[:, 3] = 0
    return SplitOutputs(logits, labels)


@pytest.mark.parametrize(("right", "count"), [(0, 3), (7, 9), (250, 250), (1, 1000)])
def test_the_interval_of_a_share_is_wilsons(right, count):
    expected = binomtest(right, count).proportion_ci(method="wilson")
    assert wilson_interval(right, count) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_the_main_score_of_a_multiclass_task_is_accuracy_with_that_interval():
    outputs = _outputs([0, 1, 2, 2], [0, 1, 2, 0])
    low, high = wilson_interval(3, 4)
    assert headline(MULTICLASS, outputs) == {
        "score": "accuracy",
        "value": 0.75,
        "low": low,
        "high": high,
        "chance": 0.5,
    }


def test_the_main_score_of_a_multilabel_task_is_micro_f1_with_a_seeded_interval():
    outputs = _random("multilabel")
    told = headline(MULTILABEL, outputs)
    predicted = (outputs.logits > 0).int()
    assert told["value"] == pytest.approx(f1_score(outputs.labels, predicted, average="micro"))
    assert told == headline(MULTILABEL, outputs)
    frequent = outputs.labels.sum(dim=0).argsort(descending=True)
    answers = [
        torch.isin(torch.arange(len(frequent)), frequent[: k + 1]) for k in range(len(frequent))
    ]
    constant = (answer.int().expand_as(outputs.labels) for answer in answers)
    chances = [f1_score(outputs.labels, answer, average="micro") for answer in constant]
    assert told["chance"] == pytest.approx(max(chances))
    rng, draws = np.random.default_rng(7), []
    for _ in range(500):
        rows = rng.integers(200, size=200)
        draws.append(f1_score(outputs.labels[rows], predicted[rows], average="micro"))
    low, high = np.percentile(draws, [2.5, 97.5])
    assert (told["low"], told["high"]) == pytest.approx((low, high), abs=0.01)


def test_the_surest_answers_are_scored_alone():
    truth, predicted = [0] * 20, [0] * 10 + [1] * 10
    table = coverage_table(
        MULTICLASS, _outputs(truth, predicted, [float(20 - n) for n in range(20)])
    )
    scores = {row["coverage"]: row["score"] for row in table}
    assert scores[0.5] == 1
    assert scores[0.8] == pytest.approx(10 / 16)
    assert scores[1.0] == 0.5
    assert [row["samples"] for row in table] == list(range(1, 21))
    probabilities = [row["probability"] for row in table]
    assert probabilities == sorted(probabilities, reverse=True)


def test_no_axis_of_the_surest_answers_goes_beyond_100_percent():
    scores = [{"coverage": 0.5, "score": 1.0}, {"coverage": 1.0, "score": 0.9}]
    bins = [{"from": 0.0, "to": 1.0, "samples": 2, "probability": 0.9, "accuracy": 0.9}]
    content = {"coverage": scores, "headline": {"score": "accuracy"}, "task": "multiclass"}
    figure = draw_figures(content | {"calibration": {"bins": bins}}, ["a"])["coverage"]
    (axes,) = figure.axes
    assert (axes.get_xlim()[1], axes.get_ylim()[1]) == (100, 100)


def test_a_multilabel_answer_is_as_sure_as_all_of_its_labels():
    # the first sample has the surest single label, but the second is surer as a whole
    logits = torch.tensor([[9.0, 0.1, 0.1, 0.1], [2.0, -2.0, -2.0, -2.0]])
    outputs = SplitOutputs(logits, torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0]]))
    first = coverage_table(MULTILABEL, outputs)[0]
    assert (first["samples"], first["score"]) == (1, 1.0)
    assert first["probability"] == pytest.approx(float(torch.tensor(2.0).sigmoid() ** 4))


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_averages_are_scikit_learns_and_a_class_without_a_sample_has_no_scores(task):
    evaluator = MULTICLASS if task == "multiclass" else MULTILABEL
    outputs = _random(task)
    table = class_table(evaluator, outputs)
    last = table[-1]
    assert (last["class"], last["support"]) == ("d", 0)
    assert last["predicted"] > 0
    assert last["precision"] is last["recall"] is last["f1"] is None
    macro, weighted = average_rows(table)
    predicted = evaluator.predict(outputs.logits)
    for row, average in ((macro, "macro"), (weighted, "weighted")):
        expected = precision_recall_fscore_support(
            outputs.labels, predicted, average=average, zero_division=0
        )
        assert [row["precision"], row["recall"], row["f1"]] == pytest.approx(expected[:3])
    name = "f1_macro" if evaluator is MULTICLASS else "f1_macro_tuned"
    tested = evaluator.scores(*outputs[:2])
    assert macro["f1"] == pytest.approx(tested[name])


def test_confused_pairs_are_the_most_frequent_errors():
    outputs = _outputs([0, 0, 0, 1, 2, 2], [1, 1, 0, 1, 0, 2])
    assert confused_pairs(MULTICLASS, outputs, most=1) == [
        {"true": "a", "predicted": "b", "samples": 2, "share of the true class": 2 / 3}
    ]
    assert [row["samples"] for row in confused_pairs(MULTICLASS, outputs)] == [2, 1]
    assert confused_pairs(MULTICLASS, _outputs([0], [0])) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("f1_micro", "micro F1 at 0.5"),
        ("f1_macro", "macro F1"),
        ("test/accuracy", "accuracy"),
        ("test/accuracy_top5", "top-5 accuracy"),
        ("test/accuracy_relation", "accuracy, relation"),
        ("test/f1_micro_tuned", "micro F1 at the model's thresholds"),
        ("share of the true class", "share of the true class"),
        ("test/my_own", "my own"),
    ],
)
def test_metrics_have_names_in_words(name, words):
    assert label(name) == words
    if name == "f1_macro":  # which multiclass tasks have, too
        assert label(name, multilabel=True) == "macro F1 at 0.5"
