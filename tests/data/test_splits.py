import numpy as np
import pytest

from epic_pl.data.splits import grouped_split, stratified_split
from epic_pl.utils.errors import DataError


def _counts(labels, rows):
    return np.bincount([c for row in rows for c in labels[row]], minlength=12)


def test_multilabel_rows_are_stratified_by_their_rarest_labels():
    rng, rate = np.random.default_rng(0), np.geomspace(0.5, 0.01, 12)
    labels = [np.flatnonzero(rng.random(12) < rate).tolist() for _ in range(2000)]
    part = grouped_split(labels, np.arange(2000), {"val": 0.1, "test": 0.1}, seed=0)
    assert np.bincount(part).tolist() == [1600, 200, 200]
    for number, share in ((0, 0.8), (1, 0.1), (2, 0.1)):
        expected = share * _counts(labels, range(2000))
        counts = _counts(labels, np.flatnonzero(part == number))
        assert (np.abs(counts - expected) <= 1.5 + 0.12 * expected).all()


def test_rows_of_a_group_stay_together_and_classes_stay_in_proportion():
    groups = np.repeat(np.arange(100), 5)
    labels = [[(group // 2) % 2] for group in groups]
    part = grouped_split(labels, groups, {"val": 0.2, "test": 50}, 0)
    assert all(len(set(part[groups == group])) == 1 for group in range(100))
    assert np.bincount(part).tolist() == [350, 100, 50]
    assert np.mean([label[0] for label, p in zip(labels, part, strict=True) if p == 1]) == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_a_class_with_one_row_is_trained_on(seed):
    labels = [[0]] * 10 + [[1]] + [[2]] * 2
    part = grouped_split(labels, np.arange(13), {"val": 0.4, "test": 0.4}, seed)
    assert {label[0] for label, p in zip(labels, part, strict=True) if p == 0} == {0, 1, 2}


@pytest.mark.parametrize("sizes", [{"val": 0.5, "test": 0.5}, {"val": 12}, {"val": -0.1}])
def test_sizes_that_leave_nothing_are_refused(sizes):
    with pytest.raises(DataError, match="leave none of 10 rows"):
        grouped_split([[0]] * 10, np.arange(10), sizes, 0)


def test_split_has_exact_sizes_and_keeps_the_mix():
    counts = [300, 100, 37, 20, 3]
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(5), counts))
    split = stratified_split(labels, {"train": 0.7, "val": 0.15, "test": 0.15}, seed=0)
    assert [len(split[name]) for name in ("train", "val", "test")] == [322, 69, 69]
    assert sorted(np.concatenate(list(split.values()))) == list(range(460))
    for rows in split.values():
        assert (np.diff(rows) > 0).all()
        expected = np.array(counts) * len(rows) / 460
        assert (np.abs(np.bincount(labels[rows], minlength=5) - expected) < 2).all()


def test_split_depends_on_the_seed_only():
    labels = [0, 1] * 50
    first, again, other = (stratified_split(labels, {"val": 10}, seed)["val"] for seed in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()
    assert np.bincount(np.array(labels)[first]).tolist() == [5, 5]
