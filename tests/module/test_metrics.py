import itertools

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from epic_pl.module.metrics import F1Thresholds, at_thresholds, build_metrics


def measured(task, scores, labels, splits=(0, 7, 8, 30)):
    """Metrics over batches of unequal size."""
    metrics = build_metrics(task, scores.shape[1], "test/")
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
    if num_classes == 2:
        expected["test/auroc"] = roc_auc_score(labels, probabilities[:, 1])
    if num_classes > 5:
        hits = [
            int(label in sorted(range(num_classes), key=lambda c, row=row: -row[c])[:5])
            for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True)
        ]
        assert 0 < sum(hits) < 50
        expected["test/accuracy_top5"] = sum(hits) / 50
    assert measured("multiclass", probabilities, labels) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("case", ["mixed", "empty rows", "a label that never occurs"])
def test_multilabel_metrics(case):
    probabilities, labels = torch.rand(50, 4), (torch.rand(50, 4) < 0.3).int()
    if (
        case == "empty rows"
    ):  # nothing true and nothing predicted counts as 0, as scikit-learn has it
        probabilities[:20], labels[:20] = 0.1, 0
    elif case == "a label that never occurs":
        probabilities[:, 2], labels[:, 2] = 0.1, 0
    predicted = probabilities > 0.5
    expected = {
        f"test/f1_{average}": f1_score(labels, predicted, average=average, zero_division=0)
        for average in ("micro", "macro", "samples", "weighted")
    }
    assert len({round(score, 6) for score in expected.values()}) == 4  # a mix-up would show
    assert measured("multilabel", probabilities, labels) == pytest.approx(expected, abs=1e-6)


def test_metrics_start_anew_after_reset():
    metrics = build_metrics("multilabel", 3, "val/")
    labels = torch.randint(2, (8, 3))
    metrics.update(1.0 - labels, labels)
    metrics.reset()
    metrics.update(labels.float(), labels)
    assert metrics.compute()["val/f1_micro"] == 1.0


# ------------------------------------------------------------------ thresholds


def _best_by_search(scores, labels):
    """Of every grid point the F1, by scikit-learn; the best one nearest to 0.5."""
    chosen = []
    for label in range(labels.shape[1]):
        found = []
        for step in range(201):
            predicted = scores[:, label] >= step / 200
            f1 = f1_score(labels[:, label], predicted, zero_division=0)
            found.append((-round(f1, 9), abs(step / 200 - 0.5), step / 200))
        chosen.append(min(found)[2])
    return chosen


def test_thresholds_maximise_f1_of_each_label():
    labels = (torch.rand(80, 4) < torch.tensor([0.5, 0.1, 0.3, 0.2])).int()
    # off the grid by half a step, where a threshold and a score could be equal but for rounding
    scores = (0.3 * torch.rand(80, 4) + 0.25 * labels).mul(200).floor().add(0.5).div(200)
    tuner = F1Thresholds(4)
    for rows in (slice(0, 30), slice(30, 80)):
        tuner.update(scores[rows], labels[rows])
    thresholds = tuner.compute()
    assert thresholds.tolist() == pytest.approx(_best_by_search(scores, labels))
    assert thresholds.max() < 0.5  # else 0.5 would have done


def test_a_label_without_positives_keeps_half():
    tuner = F1Thresholds(2)
    tuner.update(torch.rand(9, 2), torch.zeros(9, 2, dtype=torch.int))
    assert tuner.compute().tolist() == [0.5, 0.5]


def test_a_score_at_its_threshold_counts():
    scores = torch.tensor([[0.5, 0.2], [0.49, 0.3]])
    assert at_thresholds(scores, torch.tensor([0.5, 0.25])).tolist() == [[1, 0], [0, 1]]


def test_given_predictions_are_taken_as_they_are():
    labels = torch.randint(2, (9, 3))
    metrics = build_metrics("multilabel", 3, "test/", "_tuned")
    metrics.update(labels, labels)
    assert set(metrics.compute()) == {
        f"test/f1_{kind}_tuned" for kind in ("micro", "macro", "samples", "weighted")
    }
    assert metrics.compute()["test/f1_macro_tuned"] == 1.0
