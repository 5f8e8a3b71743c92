import numpy as np
import pyarrow as pa
import pytest

from epic_pl.data.loading.balance import class_counts, labels_of, row_weights
from epic_pl.errors import ConfigError

SINGLE = pa.chunked_array([[0, 0, 0, 1], [2, 0]])
SEVERAL = pa.chunked_array([pa.array([[0], [0, 1], []]), pa.array([[0, 2], [], [0]])])


def test_counts_of_single_labels_and_of_several():
    assert class_counts(SINGLE, 4).tolist() == [4, 1, 1, 0]
    assert class_counts(SEVERAL, 4).tolist() == [4, 1, 1, 0]


def test_every_class_is_drawn_equally_often():
    weights = row_weights(SINGLE, 4)
    labels = SINGLE.to_numpy()
    totals = [weights[labels == label].sum() for label in range(3)]
    assert totals == pytest.approx([1 / 3] * 3)


def test_a_row_of_several_labels_weighs_their_mean_and_none_is_a_class_of_its_own():
    raw = np.array([1 / 4, (1 / 4 + 1) / 2, 1 / 2, (1 / 4 + 1) / 2, 1 / 2, 1 / 4])
    assert row_weights(SEVERAL, 4) == pytest.approx(raw / raw.sum())


def test_labels_that_are_not_fixed_or_not_known_are_refused():
    with pytest.raises(ConfigError, match="labels of a list are not fixed"):
        labels_of([1, 2])

    class Table:
        table = pa.table({"label": [0, None, 1]})

    with pytest.raises(ConfigError, match="1 of 3 training rows have no label"):
        labels_of(Table())
