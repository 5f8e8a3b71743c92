"""Probabilities as a table with labels.

Shape legend: N samples, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from epic_pl.module.postprocess import assign_labels
from epic_pl.utils.types import Batch

Floats = npt.NDArray[np.float32]


def prediction_table(
    columns: Mapping[str, Any],
    scores: Floats,
    class_names: Sequence[str],
    thresholds: Floats | None,
    top_k: int | None,
) -> pa.Table:
    """A table of ``columns``, the predicted ``label``, how sure it is, and the probabilities.

    ``margin`` is the distance to another answer: of the best two probabilities, or of the label
    nearest to its threshold. ``entropy`` is in nats; of several labels, their mean.

    Args:
        columns: columns of strings to begin with, such as ids.
        scores: probabilities ``(N, C)``.
        class_names: C names.
        thresholds: minimum probability of each label ``(C,)``; None for multiclass.
        top_k: None gives one probability column a class (``probability_<class>``); k gives the k
            best as columns ``label_1``, ``probability_1``, ..., where multiclass has no
            ``label_1``, since it is ``label``.
    """
    order = np.argsort(-scores, axis=1, kind="stable")  # (N, C)
    names = np.array(class_names, dtype=object)
    if thresholds is not None:
        label = ["|".join(names[row]) for row in assign_labels(scores, thresholds)]
    else:
        label = names[order[:, 0]].tolist()
    table = {name: pa.array(values, pa.string()) for name, values in columns.items()}
    table["label"] = pa.array(label, pa.string())
    table["margin"], table["entropy"] = margins(scores, thresholds), entropies(scores, thresholds)
    if top_k is None:
        table |= {f"probability_{name}": scores[:, i] for i, name in enumerate(class_names)}
    else:
        for k in range(min(top_k, len(class_names))):
            if k or thresholds is not None:
                table[f"label_{k + 1}"] = pa.array(names[order[:, k]].tolist(), pa.string())
            table[f"probability_{k + 1}"] = scores[np.arange(len(scores)), order[:, k]]
    return pa.table(table)


def sample_columns(batch: Batch | None) -> dict[str, list[Any]]:
    """Ids and image paths of a batch, null without an image; None is one without samples."""
    if batch is None:
        return {"sample_id": [], "image_path": []}
    paths = [path or None for path in batch["image_path"]]
    return {"sample_id": list(batch["sample_id"]), "image_path": paths}


def margins(scores: Floats, thresholds: Floats | None) -> Floats:
    """Distance to another answer ``(N,)``; arguments as in :func:`prediction_table`."""
    if thresholds is not None:
        return cast(Floats, np.abs(scores - thresholds).min(axis=1))
    second, best = np.partition(scores, -2, axis=1)[:, -2:].T
    return np.asarray(best - second)


def entropies(scores: Floats, thresholds: Floats | None) -> Floats:
    """Entropy ``(N,)`` in nats, of several labels their mean; arguments as in :func:`margins`."""
    probabilities = torch.from_numpy(scores)
    terms = torch.special.entr(probabilities)
    if thresholds is None:
        return np.asarray(terms.sum(dim=1))
    return np.asarray((terms + torch.special.entr(1 - probabilities)).mean(dim=1))
