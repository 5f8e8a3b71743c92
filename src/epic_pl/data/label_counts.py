"""How often each class occurs in a dataset's labels. Shape legend: C classes."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.errors import ConfigError


def labels_of(dataset: Any) -> pa.ChunkedArray:
    """The labels of a dataset's rows, no image read."""
    if not hasattr(dataset, "table"):
        raise ConfigError(
            f"The labels of a {type(dataset).__name__} are drawn anew every epoch: leave out "
            "balanced weights."
        )
    labels: pa.ChunkedArray = dataset.table["label"]
    if labels.null_count:
        raise ConfigError(
            f"{labels.null_count} of {len(labels)} training rows have no label, so classes cannot "
            "be balanced. Label them, or leave them out."
        )
    return labels


def class_counts(labels: pa.ChunkedArray, num_classes: int) -> npt.NDArray[np.int64]:
    """Rows of each class ``(C,)``; a multilabel row counts for each of its classes."""
    flat = pc.list_flatten(labels) if pa.types.is_list(labels.type) else labels.drop_null()
    return np.bincount(flat.to_numpy().astype(np.int64), minlength=num_classes)
