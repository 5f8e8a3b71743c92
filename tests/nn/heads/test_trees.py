"""Boosted trees, against scikit-learn's own decisions and its principal components."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor

from epic_pl.nn.heads import trees
from epic_pl.nn.heads.trees import BoostedTrees, Components
from epic_pl.nn.pair import Source
from tolerance import assert_differ, assert_same

ROWS, WIDTH = 300, 12
WIDTHS = {"image": 20, "text": 24}
OF_COLUMNS = {**WIDTHS, "columns": WIDTH}


@pytest.fixture
def table():
    """Shares of numbers, and labels that depend on them."""
    rng = np.random.default_rng(0)
    columns = torch.from_numpy(rng.random((ROWS, WIDTH)).round(1)).float()
    return columns, (columns[:, 0] > 0.5) + 2 * (columns[:, 1] > 0.7)


def _sources(columns):
    return {"columns": Source(columns, columns.any(dim=1))}


def _told(model, columns):
    return model.eval()(_sources(columns))


@pytest.fixture
def all_rows(monkeypatch):
    """Trees that see all rows and inputs, so that nothing is drawn."""
    monkeypatch.setattr(trees, "_SHARE", 1.0)
    monkeypatch.setattr(trees, "_SEEN", 1.0)


def _reference(inputs, labels, seen):
    options = {"n_estimators": 100, "max_depth": 3, "learning_rate": 0.05, "init": "zero"}
    raw = GradientBoostingClassifier(**options).fit(inputs, labels).decision_function(seen)
    rates = np.bincount(labels, minlength=2) / len(labels)
    if raw.ndim == 1:
        return raw - np.log(rates[1] / rates[0])
    return raw - np.log(rates)


@pytest.mark.usefixtures("all_rows")
def test_evidence_is_the_decision_of_scikit_learn_beyond_the_frequency(table):
    columns, labels = table
    seen = torch.from_numpy(np.random.default_rng(1).random((50, WIDTH)).round(1)).float()
    model = BoostedTrees(OF_COLUMNS, 5)  # no row is of the last class
    assert not _told(model, seen).any()
    model.fit(_sources(columns), labels, "multiclass")
    found = _told(model, seen)
    assert_same(found[:, :4], _reference(columns, labels, seen), trained=True)
    assert not found[:, 4].any()
    assert not _told(model, torch.zeros(2, WIDTH)).any()  # rows without a cell
    right = (_told(model, columns).argmax(dim=1) == labels).float().mean()
    assert right > 0.9


@pytest.mark.usefixtures("all_rows")
def test_several_labels_have_the_trees_of_one_and_two_classes_tell_as_much(table):
    columns, labels = table
    held = torch.stack([labels > 1, torch.ones(ROWS), labels == 1], dim=1).long()
    many, two = BoostedTrees(OF_COLUMNS, 3), BoostedTrees(OF_COLUMNS, 2)
    many.fit(_sources(columns), held, "multilabel")
    two.fit(_sources(columns), held[:, 0], "multiclass")
    found, other = _told(many, columns), _told(two, columns)
    for place in (0, 2):
        assert_same(found[:, place], _reference(columns, held[:, place], columns), trained=True)
    assert not found[:, 1].any()  # all rows have this label
    assert_same(other[:, 1] - other[:, 0], found[:, 0], trained=True)


def _made_of(kind, count, rows):
    """Inputs and labels of a kind that a table may have."""
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.permutation(np.arange(rows) % count))
    inputs = torch.from_numpy(rng.random((rows, WIDTH))).float()
    if kind == "ties":
        inputs = inputs.round()
    elif kind == "constant":
        inputs = torch.ones_like(inputs)
    elif kind == "separable":
        inputs[:, 0] = labels / count + 1e-3
    elif kind == "rare":  # one row of each class but one
        labels = torch.where(torch.arange(rows) < count, torch.arange(rows) % count, count - 1)
    else:  # one class has no row
        labels = labels.clamp(max=max(count - 2, 0))
    return inputs, labels


@pytest.mark.parametrize("kind", ["ties", "constant", "separable", "rare", "absent"])
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize(
    ("count", "rows"), [(2, 200), (20, 40), (21, 200), (120, 200), (1000, 300)]
)
def test_leaves_are_bounded_for_any_number_of_classes_and_rows(
    count, rows, task, kind, monkeypatch
):
    monkeypatch.setattr(trees, "_RATE", 1.0)  # chances become certain in few stages
    inputs, labels = _made_of(kind, count, rows)
    given = torch.nn.functional.one_hot(labels, count) if task == "multilabel" else labels
    model = BoostedTrees({"columns": WIDTH}, count)
    model.fit(_sources(inputs), given, task, range(8))
    told = _told(model, inputs)
    assert told.shape == (rows, count)
    assert torch.isfinite(told).all()
    assert model.leaves.abs().max() <= 10.0
    absent = torch.bincount(labels, minlength=count) == 0
    assert not told[:, absent].any()
    if kind == "separable" and rows > 2 * count:
        chance = told if task == "multilabel" else told.softmax(dim=1)
        assert (chance.argmax(dim=1) == labels).float().mean() > min(0.9, 4 / count)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_many_classes_share_trees_whose_leaves_have_a_number_for_each(task, monkeypatch):
    split_for, fit = set(), DecisionTreeRegressor.fit

    def noted(tree, inputs, targets, **options):
        split_for.add(targets.shape[1])
        return fit(tree, inputs, targets, **options)

    monkeypatch.setattr(DecisionTreeRegressor, "fit", noted)
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, 40, 800))
    inputs = torch.from_numpy(rng.random((800, WIDTH))).float()
    inputs[:, 3] = labels % 8 + 0.5 * inputs[:, 3]
    inputs[:, 7] = labels // 8 + 0.5 * inputs[:, 7]
    given = torch.nn.functional.one_hot(labels, 40) if task == "multilabel" else labels
    model = BoostedTrees({"columns": WIDTH}, 40)
    assert model.inputs.shape[0] == 1
    model.fit(_sources(inputs[:600]), given[:600], task)
    assert split_for == {10}  # projections, or the cost would grow with the classes
    right = _told(model, inputs[600:]).argmax(dim=1) == labels[600:]
    assert right.float().mean() > 0.8


def test_components_are_those_of_scikit_learn_and_zero_where_missing():
    features = torch.randn(100, 24) * torch.linspace(1, 30, 24) + 5
    part = Components(24)
    part.fit(features)
    found = part(features, torch.arange(100) != 3)
    assert not found[3].any()
    expected = PCA(16, whiten=True).fit_transform(StandardScaler().fit_transform(features))
    for one, other in zip(found.T, expected.T, strict=True):  # a component has no sign
        other[3] = 0
        sign = np.sign(np.dot(one.numpy(), other))
        # scikit-learn's scaler divides by the deviation of N, not of N - 1
        np.testing.assert_allclose(one, sign * other, atol=0.05)
    flat = Components(24)
    flat.fit(features[:, :1] * torch.ones(24) + 1e-4 * torch.randn(100, 24))
    assert flat.directions.any(dim=0).sum() == 1  # the others are noise
    few = Components(24)
    few.fit(features[:3])
    assert few.directions.any(dim=0).sum() == 2


@pytest.mark.parametrize("columns", [0, WIDTH])
def test_components_are_inputs_where_columns_tell_nothing(columns):
    image, text = torch.randn(ROWS, 20), torch.randn(ROWS, 24)
    image[:, :3] *= 5  # what varies most
    labels = (image[:, 0] > 0).long()
    model = BoostedTrees({**WIDTHS, "columns": columns}, 2)
    present = torch.arange(ROWS) > 20
    given = {"image": Source(image, present), "text": Source(text)}
    if columns:
        given["columns"] = Source(torch.ones(ROWS, columns))
    model.eval().fit(given, labels, "multiclass")
    told = model(given).diff(dim=1)[:, 0]
    assert ((told[21:] > 0).long() == labels[21:]).float().mean() > 0.9
    missing = {**given, "image": Source(torch.full_like(image, torch.nan), present)}
    assert_same(model(missing).diff(dim=1)[:21, 0], told[:21])
    nudged = model({**given, "image": Source(image + 1e-6, present)})  # another device rounds
    nudged = nudged.diff(dim=1)[:, 0]
    assert_same(nudged, told, trained=True)


def test_close_to_the_threshold_of_a_component_a_sample_goes_both_ways():
    image, text = torch.randn(ROWS, 20), torch.randn(ROWS, 24)
    labels = (image[:, 0] > 0).long() + (image[:, 1] > 1)
    model = BoostedTrees(WIDTHS, 3)
    model.eval().fit({"image": Source(image), "text": Source(text)}, labels, "multiclass")
    seen = torch.linspace(-3, 3, 6001)[:, None] * torch.eye(20)[0]
    told = model({"image": Source(seen), "text": Source(torch.zeros(6001, 24))})
    spread = told.amax(dim=0) - told.amin(dim=0)
    assert (spread > 0.5).any()
    assert (told.diff(dim=0).abs().amax(dim=0) < spread / 20).all()


def test_at_a_threshold_of_a_component_the_evidence_is_half_of_both_sides():
    model = BoostedTrees({"image": 1}, 1).eval()
    model.components["image"].directions[0, 0] = 1
    model.leaves[0, 0] = torch.tensor([-1.0] * 4 + [1.0] * 4)  # left and right of the first node
    model.thresholds[0, 0, 0] = 2
    near = 2 + torch.tensor([-1.0, -0.05, -0.025, 0, 0.025, 0.05, 1])[:, None]
    assert_same(model({"image": Source(near)})[:, 0], torch.tensor([-1, -1, -0.5, 0, 0.5, 1, 1]))


def test_trees_are_the_same_again_and_large_tables_are_drawn_from(table, monkeypatch):
    columns, labels = table
    monkeypatch.setattr(trees, "_MOST_SAMPLED", 50)
    first, again, other = (BoostedTrees(OF_COLUMNS, 4) for _ in range(3))
    first.fit(_sources(columns), labels, "multiclass")
    again.fit(_sources(columns), labels, "multiclass")
    assert all(map(torch.equal, first.buffers(), again.buffers()))
    monkeypatch.undo()
    other.fit(_sources(columns), labels, "multiclass")
    assert_differ(other.leaves, first.leaves)
