import pytest

from epic_pl.data.rows import sample_table, table_schema
from epic_pl.errors import DataError


def test_table_keeps_nulls_and_empty_text():
    table = sample_table(["a", "b", "c"], ["x.jpg", None, "z.jpg"], [None, "", "t"], [0, None, 2])
    assert table.schema.equals(table_schema())
    assert table["image"].to_pylist() == ["x.jpg", None, "z.jpg"]
    assert table["text"].to_pylist() == [None, "", "t"]
    assert table["label"].to_pylist() == [0, None, 2]


def test_multilabel_table():
    table = sample_table(["a", "b", "c"], ["x"] * 3, ["t"] * 3, [[0, 2], [], None], multilabel=True)
    assert table.schema.equals(table_schema(multilabel=True))
    assert table["label"].to_pylist() == [[0, 2], [], None]


@pytest.mark.parametrize(
    ("labels", "multilabel", "match"),
    [
        ([0, -1], False, r"that of row 1 is -1"),
        ([[0, 1], [2, -5]], True, r"that of row 1 is -5"),
        ([[0], [None]], True, "row 1"),
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
        (["a", None], ["x", "x"], ["t", "t"], "none in row 1"),
        (["a", "b"], ["x", None], [None, None], r"neither picture nor text in row 1 \('b'\)"),
        (["a", "b"], ["x", "x"], ["t", "cut \ud83d"], "'text' must hold string"),
        ([*"abacba"], ["x"] * 6, ["t"] * 6, r"not unique: rows 0 \('a'\), 1 \('b'\), 2 \('a'\), 4"),
    ],
)
def test_bad_columns(ids, images, texts, match):
    with pytest.raises(DataError, match=match):
        sample_table(ids, images, texts, [0] * len(ids))
