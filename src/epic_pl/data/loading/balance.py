"""How often classes occur, and how much rows weigh so that rare classes are seen as often.

Shape legend: N rows, C classes. Labels are the column of a sample table: class indices, or lists of
them (multilabel).
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.errors import ConfigError


def labels_of(dataset: Any) -> pa.ChunkedArray:
    """The labels of a dataset's rows, no picture read."""
    table = getattr(dataset, "table", None)
    if table is None:
        raise ConfigError(
            f"The labels of a {type(dataset).__name__} are not fixed: it draws them anew. "
            "Leave out balanced_sampling and balanced weights, or let build_dataset return "
            "an ImageTextDataset."
        )
    labels: pa.ChunkedArray = table["label"]
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


def row_weights(labels: pa.ChunkedArray, num_classes: int) -> npt.NDArray[np.float64]:
    """Weights ``(N,)`` under which every class is drawn equally often; they sum to 1.

    A row weighs the inverse of its class's count. A multilabel row weighs the mean over its
    classes, and rows without one count as a class of their own.
    """
    counts = class_counts(labels, num_classes)
    if not pa.types.is_list(labels.type):
        weights = 1 / counts[labels.to_numpy()]
    else:
        lists = labels.combine_chunks()
        sizes = pc.list_value_length(lists).to_numpy()  # (N,)
        inverse = 1 / counts[pc.list_flatten(lists).to_numpy()]
        sums = np.bincount(pc.list_parent_indices(lists).to_numpy(), inverse, minlength=len(sizes))
        none = sizes == 0
        weights = np.where(none, 1 / max(int(none.sum()), 1), sums / np.maximum(sizes, 1))
    return np.asarray(weights / weights.sum(), dtype=np.float64)
