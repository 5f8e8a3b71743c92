"""Probabilities as a table with labels.

Shape legend: N samples, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from epic_pl.module.postprocess import assign_labels

Floats = npt.NDArray[np.float32]


def prediction_table(
    columns: Mapping[str, Any],
    scores: Floats,
    class_names: Sequence[str],
    thresholds: Floats | None,
    top_k: int | None,
) -> pa.Table:
    """A table of ``columns``, the predicted ``label`` and the probabilities.

    Args:
        columns: columns of strings to begin with, such as ids.
        scores: probabilities ``(N, C)``.
        class_names: C names.
        thresholds: minimum probability of each label ``(C,)``; None for multiclass.
        top_k: None gives one probability column a class (``probability_<class>``); k gives the k
            best as columns ``label_1``, ``probability_1``, ...
    """
    order = np.argsort(-scores, axis=1, kind="stable")  # (N, C)
    names = np.array(class_names, dtype=object)
    if thresholds is not None:
        label = ["|".join(names[row]) for row in assign_labels(scores, thresholds)]
    else:
        label = names[order[:, 0]].tolist()
    table = {name: pa.array(values, pa.string()) for name, values in columns.items()}
    table["label"] = pa.array(label, pa.string())
    if top_k is None:
        table |= {f"probability_{name}": scores[:, i] for i, name in enumerate(class_names)}
    else:
        for k in range(min(top_k, len(class_names))):
            table[f"label_{k + 1}"] = pa.array(names[order[:, k]].tolist(), pa.string())
            table[f"probability_{k + 1}"] = scores[np.arange(len(scores)), order[:, k]]
    return pa.table(table)
