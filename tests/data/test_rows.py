from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from epic_pl.data.rows import (
    Rows,
    check_labels,
    class_counts,
    grouped_split,
    rows_digest,
    sample_table,
    stratified_split,
    table_schema,
)
from epic_pl.utils.errors import DataError


@pytest.mark.parametrize("labels", [[0, None, 2], [[0, 2], [], None]])
def test_table_keeps_nulls_and_what_is_empty(labels):
    images, texts, multilabel = ["x.jpg", None, "z.jpg"], [None, "", "t"], [] in labels
    table = sample_table(["a", "b", "c"], images, texts, labels, multilabel)
    assert table.schema.equals(table_schema(multilabel))
    columns = {"sample_id": ["a", "b", "c"], "image": images, "text": texts, "label": labels}
    assert table.to_pydict() == columns


def test_the_digest_of_rows_changes_with_each_cell_their_order_and_their_count():
    ids, images, texts, labels = ["a", "b"], ["0.png", "1.png"], ["one", "two"], [0, 1]
    tables = [
        sample_table(ids, images, texts, labels),
        sample_table(["a", "c"], images, texts, labels),
        sample_table(ids, ["0.png", None], texts, labels),
        sample_table(ids, images, ["one", None], labels),
        sample_table(ids, images, texts, [0, 0]),
        sample_table(ids[::-1], images[::-1], texts[::-1], labels[::-1]),
        sample_table(ids[:1], images[:1], texts[:1], labels[:1]),
    ]
    assert len(set(map(rows_digest, tables))) == len(tables)
    assert rows_digest(sample_table(ids, images, texts, labels)) == rows_digest(tables[0])


@pytest.mark.parametrize(
    ("labels", "multilabel", "match"),
    [
        ([0, float("nan")], False, "'label'"),
        ([0, 1.5], False, "'label'"),
        ([0, "cat"], False, "'label'"),
        (["0", "1"], False, "class indices"),
        ([[0], [1.5]], True, "'label'"),
        ([[0], 1], True, "'label'"),
        ([0, [1]], False, "'label'"),
        ([[0], [1]], False, "'label'"),
    ],
)
def test_bad_labels(labels, multilabel, match):
    with pytest.raises(DataError, match=match):
        sample_table(["a", "b"], ["x"] * 2, ["t"] * 2, labels, multilabel)


@pytest.mark.parametrize(
    ("ids", "images", "texts", "match"),
    [
        (["a"], ["x", "y"], ["t"], "one length"),
        ([1], ["x"], ["t"], "'sample_id'"),
        (["a", None], ["x", "x"], ["t", "t"], "no sample id in row 1"),
        (["a", "b"], ["x", "x"], ["t", "cut \ud83d"], "'text' must hold string"),
        ([*"abacba"], ["x"] * 6, ["t"] * 6, r"not unique: rows 0 \('a'\), 1 \('b'\), 2 \('a'\), 4"),
    ],
)
def test_bad_columns(ids, images, texts, match):
    with pytest.raises(DataError, match=match):
        sample_table(ids, images, texts, [0] * len(ids))


SINGLE = pa.chunked_array([[0, 0, 0, None], [1, 0, 2]])
SEVERAL = pa.chunked_array([[[0], [0, 1]], [[0, 2], [0], None]], pa.list_(pa.int64()))


@pytest.mark.parametrize("labels", [SINGLE, SEVERAL])
def test_rows_of_each_class_are_counted_and_unknown_ones_not(labels):
    assert class_counts(labels, 4).tolist() == [4, 1, 1, 0]


@pytest.mark.parametrize(
    ("labels", "task", "said"),
    [
        (
            [0, -1],
            "multiclass",
            r"sample 'b' has label -1 \(1 such\).*takes class indices in 0\.\.2",
        ),
        ([3, 5], "multiclass", r"sample 'a' has label 3 \(2 such\)"),
        ([[0, 1], [2, -5]], "multilabel", "'b' has label -5 .*takes lists of class indices"),
        ([[0], [None]], "multilabel", "'b' has label None"),
        ([0, None], "multilabel", "'a' has label 0"),
        ([[0], None], "multiclass", "'a' has label 0"),
    ],
)
def test_labels_of_no_class_name_the_sample(labels, task, said):
    table = sample_table(["a", "b"], ["x"] * 2, ["t"] * 2, labels, isinstance(labels[0], list))
    with pytest.raises(DataError, match=said):
        check_labels(Rows(table, Path(), Path("rows.csv")), 3, task)


@pytest.mark.parametrize("labels", [[0, 2], [None, None], [[0, 2], []], [None, [1]]])
def test_labels_of_known_classes_or_unknown_ones_are_sound(labels):
    several = any(isinstance(label, list) for label in labels)
    table = sample_table(["a", "b"], ["x"] * 2, ["t"] * 2, labels, several)
    rows = Rows(table, Path(), Path("rows.csv"))
    check_labels(rows, 3, "multilabel" if several else "multiclass")


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
