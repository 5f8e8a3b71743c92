from types import SimpleNamespace

import pyarrow as pa
import pytest

from epic_pl.data.label_counts import class_counts, labels_of
from epic_pl.errors import ConfigError

SINGLE = pa.chunked_array([[0, 0, 0], [1, 0, 2]])
SEVERAL = pa.chunked_array([[[0], [0, 1]], [[0, 2], [0], []]], pa.list_(pa.int64()))


@pytest.mark.parametrize("labels", [SINGLE, SEVERAL])
def test_rows_of_each_class_are_counted(labels):
    assert class_counts(labels, 4).tolist() == [4, 1, 1, 0]


def test_unknown_labels_are_not_counted():
    with pytest.raises(ConfigError, match="a range are drawn anew"):
        labels_of(range(3))
    with pytest.raises(ConfigError, match="1 of 2 training rows have no label"):
        labels_of(SimpleNamespace(table=pa.table({"label": [0, None]})))
