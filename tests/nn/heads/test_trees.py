"""Boosted trees of the columns, against scikit-learn's own decisions."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import GradientBoostingClassifier

from epic_pl.nn.heads import trees
from epic_pl.nn.heads.trees import BoostedTrees
from tolerance import assert_differ, assert_same

ROWS, WIDTH = 300, 12


@pytest.fixture
def table():
    """Shares of numbers, and labels that depend on them."""
    rng = np.random.default_rng(0)
    columns = rng.random((ROWS, WIDTH)).round(1).astype(np.float32)
    return columns, (columns[:, 0] > 0.5) + 2 * (columns[:, 1] > 0.7)


def _reference(columns, labels, seen):
    options = {"n_estimators": 100, "max_depth": 3, "learning_rate": 0.05, "subsample": 0.5}
    options |= {"max_features": 0.3, "random_state": 0, "init": "zero"}
    model = GradientBoostingClassifier(**options)
    raw = model.fit(columns, labels).decision_function(seen)
    rates = np.bincount(labels, minlength=2) / len(labels)
    if raw.ndim == 1:
        return raw - np.log(rates[1] / rates[0])
    return raw - np.log(rates)


def test_evidence_is_the_decision_of_scikit_learn_beyond_the_frequency(table):
    columns, labels = table
    seen = np.random.default_rng(1).random((50, WIDTH)).astype(np.float32)
    model = BoostedTrees(5)  # no row is of the last class
    assert not model(torch.from_numpy(seen)).any()
    model.fit(columns, labels, "multiclass")
    found = model(torch.from_numpy(seen))
    assert_same(found[:, :4], _reference(columns, labels, seen))
    assert not found[:, 4].any()
    assert not model(torch.zeros(2, WIDTH)).any()  # rows without a cell
    right = (model(torch.from_numpy(columns)).argmax(dim=1).numpy() == labels).mean()
    assert right > 0.9


def test_two_classes_and_several_labels_have_the_trees_of_one(table):
    columns, labels = table
    held = np.stack([labels > 1, np.ones(ROWS), labels == 1], axis=1).astype(np.int64)
    many, two = BoostedTrees(3), BoostedTrees(2)
    many.fit(columns, held, "multilabel")
    two.fit(columns, held[:, 0], "multiclass")
    found, other = many(torch.from_numpy(columns)), two(torch.from_numpy(columns))
    for place in (0, 2):
        assert_same(found[:, place], _reference(columns, held[:, place], columns))
    assert not found[:, 1].any()  # all rows have this label
    assert not other[:, 0].any()
    assert_same(other[:, 1], found[:, 0])


def test_trees_are_the_same_again_and_large_tables_are_drawn_from(table, monkeypatch):
    columns, labels = table
    monkeypatch.setattr(trees, "_MOST_ROWS", 100)
    first, again = BoostedTrees(4), BoostedTrees(4)
    first.fit(columns, labels, "multiclass")
    again.fit(columns, labels, "multiclass")
    assert all(map(torch.equal, first.buffers(), again.buffers()))
    few = BoostedTrees(4)
    few.fit(columns[:100], labels[:100], "multiclass")
    assert_differ(few.leaves, first.leaves)
