from pathlib import Path

import pyarrow as pa
import pytest

from epic_pl.data.rows import (
    Rows,
    check_labels,
    class_counts,
    rows_digest,
    sample_table,
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
