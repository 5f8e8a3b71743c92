"""Rankings against scikit-learn on rows that are repeated as their weights say."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from epic_pl.module.ranking import ranking_scores


def _reference(task, scores, labels):
    """The mean over classes for which scikit-learn's score is defined."""
    truth = labels if labels.ndim == 2 else np.eye(scores.shape[1], dtype=int)[labels]
    known = [
        column
        for column in range(task == "multiclass" and scores.shape[1] == 2, scores.shape[1])
        if truth[:, column].any() and (task == "multilabel" or not truth[:, column].all())
    ]
    measure = average_precision_score if task == "multilabel" else roc_auc_score
    return np.mean([measure(truth[:, c], scores[:, c]) for c in known])


@pytest.mark.parametrize("steps", [1e9, 8])  # the latter has many ties, of both kinds
@pytest.mark.parametrize(
    ("task", "classes"),
    [("multilabel", 6), ("multilabel", 2), ("multiclass", 2), ("multiclass", 5)],
)
def test_scores_are_those_of_scikit_learn_on_the_rows_that_are_drawn(task, classes, steps):
    rng = np.random.default_rng(classes)
    scores = rng.dirichlet(np.ones(classes), size=50)
    if task == "multilabel":
        labels = rng.random((50, classes)) < 0.3 + 0.4 * scores
        if classes > 2:
            labels[:, 1], labels[:, 2] = False, True
            labels[:, 3] = np.arange(50) == 0  # which some draws lack
    else:
        labels = np.minimum(rng.integers(classes, size=50), 3)  # of five classes the last is empty
        scores = scores + 0.3 * np.eye(classes)[labels]
    scores = np.round(scores * steps) / steps
    draws = [np.arange(50), *rng.integers(50, size=(8, 50)), rng.integers(12, size=50)]
    counts = np.stack([np.bincount(rows, minlength=50) for rows in draws], axis=1)
    given, truth = torch.from_numpy(scores), torch.from_numpy(labels)
    drawn = ranking_scores(task, given, truth, torch.from_numpy(counts.astype(float)))
    expected = [_reference(task, scores[rows], labels[rows].astype(int)) for rows in draws]
    np.testing.assert_allclose(drawn, expected, rtol=1e-12)
    assert len({round(value, 9) for value in expected}) == len(draws)
    assert ranking_scores(task, given, truth).tolist() == pytest.approx([expected[0]])


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_rows_of_which_no_class_can_be_ranked_have_no_score(task):
    labels = torch.zeros((5, 3) if task == "multilabel" else 5, dtype=torch.long)
    assert ranking_scores(task, torch.rand(5, 3), labels).isnan().all()
    weights = torch.zeros(5, 2, dtype=torch.double)
    assert ranking_scores(task, torch.rand(5, 3), labels + 1, weights).isnan().all()
