"""Orders in which an epoch's training rows come: random, balanced, or block by block.

An order is a function of the random generator, which the sampler seeds by (seed, epoch), so that an
epoch can be entered in the middle. Ranks take turns in it: of W ranks with batches of B rows, the
first B·W places are everybody's first batch.

Shape legend: N rows, C classes, T places (N, and a few rows again, so that all ranks get equally
many).
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.errors import ConfigError

Rows = npt.NDArray[np.int64]
Order = Callable[[np.random.Generator, int, int], Rows]
"""(generator, T, W) to the rows of all T places."""

OrderName = Literal["random", "balanced", "blocks"]
ORDERS: tuple[OrderName, ...] = get_args(OrderName)

_BLOCK_ROWS = 1024
_MIXED_BLOCKS = 8


def shuffled(rows: int) -> Order:
    """Every row once, all orders equally likely."""
    return lambda rng, places, ranks: np.resize(rng.permutation(rows), places)


def balanced(labels: pa.ChunkedArray) -> Order:
    """Rows drawn with replacement so that every class comes equally often.

    A row weighs the inverse of its class's count; a multilabel row the mean over its classes, and
    rows without one count as a class of their own.
    """
    lists = (
        labels.to_pylist() if pa.types.is_list(labels.type) else [[c] for c in labels.to_pylist()]
    )
    classes = [row or [-1] for row in lists]
    unique, counts = np.unique([c for row in classes for c in row], return_counts=True)
    count = dict(zip(unique.tolist(), counts.tolist(), strict=True))
    weights = np.array([np.mean([1 / count[c] for c in row]) for row in classes])
    weights /= weights.sum()
    return lambda rng, places, ranks: rng.choice(len(weights), places, p=weights)


def in_blocks(rows: int, block_rows: int = _BLOCK_ROWS) -> Order:
    """Every row once: blocks of neighbouring rows are shuffled, then eight at a time are mixed."""

    def order(rng: np.random.Generator, places: int, ranks: int) -> Rows:
        place_of_block = rng.permutation(-(-rows // block_rows))
        stretches = np.argsort(place_of_block[np.arange(rows) // block_rows], kind="stable")
        mixed = np.arange(rows) // (_MIXED_BLOCKS * block_rows)
        return np.resize(stretches[np.lexsort((rng.random(rows), mixed))], places)

    return order


def training_order(name: OrderName, dataset: Any) -> Order:
    """The order that a DataModule's option asks for."""
    if name == "balanced":
        return balanced(labels_of(dataset))
    return in_blocks(len(dataset)) if name == "blocks" else shuffled(len(dataset))


def labels_of(dataset: Any) -> pa.ChunkedArray:
    """The labels of a dataset's rows, no image read."""
    if not hasattr(dataset, "table"):
        raise ConfigError(
            f"The labels of a {type(dataset).__name__} are drawn anew every epoch: leave out "
            "order: balanced and balanced weights."
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
