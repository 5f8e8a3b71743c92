import pyarrow as pa
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
    assert table.schema.field("label").type == pa.list_(pa.int64())
    assert table["label"].to_pylist() == [[0, 2], [], None]


def test_duplicate_ids_name_ids_and_rows():
    ids = ["a", "b", "a", "c", "b", "a"]
    with pytest.raises(DataError, match=r"not unique: rows 0 \('a'\), 1 \('b'\), 2 \('a'\), 4"):
        sample_table(ids, ["x"] * 6, ["t"] * 6, [0] * 6)


def test_row_without_any_modality():
    with pytest.raises(DataError, match=r"neither picture nor text in row 1 \('b'\)"):
        sample_table(["a", "b"], ["x", None], [None, None], [0, 0])


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


def test_bad_columns():
    with pytest.raises(DataError, match="one length"):
        sample_table(["a"], ["x", "y"], ["t"], [0])
    with pytest.raises(DataError, match="'sample_id'"):
        sample_table([1], ["x"], ["t"], [0])
    with pytest.raises(DataError, match="none in row 1"):
        sample_table(["a", None], ["x"] * 2, ["t"] * 2, [0] * 2)
