"""Orders in which an epoch's training rows come: at random, by length, block by block.

An order is a function of the random generator, which the sampler seeds by (seed, epoch), so that an
epoch can be entered in the middle. Ranks take turns in it: of W ranks with batches of B rows, the
first B·W places are everybody's first batch.

Shape legend: N rows, T places (N, and a few rows again, so that all ranks get equally many).
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.data.loading.balance import labels_of, row_weights
from epic_pl.errors import ConfigError

Rows = npt.NDArray[np.int64]
Order = Callable[[np.random.Generator, int, int], Rows]
"""(generator, T, W) to the rows of all T places."""

OrderName = Literal["random", "length", "blocks"]
ORDERS: tuple[OrderName, ...] = ("random", "length", "blocks")

# so many batches are sorted together: enough for equal lengths, few enough for epochs to differ
_WINDOW = 50
# so many blocks are mixed at a time
_MIXED_BLOCKS = 8


def shuffled(rows: int) -> Order:
    """Every row once, all orders equally likely."""
    return lambda rng, places, ranks: np.resize(rng.permutation(rows), places)


def weighted(weights: npt.NDArray[np.float64]) -> Order:
    """Rows drawn with replacement, by their probabilities ``(N,)``."""
    return lambda rng, places, ranks: rng.choice(len(weights), places, p=weights)


def by_length(lengths: npt.NDArray[np.int64], batch_size: int) -> Order:
    """Every row once, rows of about one length together, also across ranks.

    All rows are shuffled and cut into windows of 50 batches for each rank; windows are sorted by
    length and cut into batches, and these are shuffled. An incomplete last batch is cut off
    before, so that it does not always get the longest rows.

    Args:
        lengths: of each row's text, ``(N,)``, in any unit.
        batch_size: B, rows of a batch of one rank.
    """

    def order(rng: np.random.Generator, places: int, ranks: int) -> Rows:
        rows = np.resize(rng.permutation(len(lengths)), places)
        size = batch_size * ranks
        batches = places // size
        whole, rest = rows[: batches * size], rows[batches * size :]
        windows = np.arange(len(whole)) // (_WINDOW * size)
        # stable, and rows are shuffled: those of one length keep coming in another order
        ordered = whole[np.lexsort((lengths[whole], windows))].reshape(batches, size)
        return np.concatenate([rng.permutation(ordered).ravel(), rest])

    return order


def in_blocks(rows: int, block_rows: int) -> Order:
    """Every row once, from a few neighbouring stretches of the table at a time.

    The table is cut into blocks, blocks are shuffled, and the rows of eight blocks at a time are
    shuffled among themselves.
    """

    def order(rng: np.random.Generator, places: int, ranks: int) -> Rows:
        of_row = np.arange(rows) // block_rows  # (N,)
        place_of_block = rng.permutation(-(-rows // block_rows))
        stretches = np.argsort(place_of_block[of_row], kind="stable")
        mixed = np.arange(rows) // (_MIXED_BLOCKS * block_rows)
        return np.resize(stretches[np.lexsort((rng.random(rows), mixed))], places)

    return order


def text_lengths(dataset: Any) -> npt.NDArray[np.int64]:
    """Characters of each row's text ``(N,)``, 0 where it is absent."""
    table: pa.Table | None = getattr(dataset, "table", None)
    if table is None:
        raise ConfigError(
            f"order: length needs texts that stay, and a {type(dataset).__name__} has no table of "
            "them: it draws texts anew every epoch. Take order: random or blocks."
        )
    lengths: npt.NDArray[np.int64] = pc.utf8_length(table["text"]).fill_null(0).to_numpy()
    return lengths.astype(np.int64)


def training_order(
    name: OrderName,
    dataset: Any,
    *,
    batch_size: int,
    block_rows: int,
    balanced_over: int | None = None,
) -> Order:
    """The order that a DataModule's options ask for."""
    if balanced_over is not None:
        return weighted(row_weights(labels_of(dataset), balanced_over))
    if name == "length":
        return by_length(text_lengths(dataset), batch_size)
    return in_blocks(len(dataset), block_rows) if name == "blocks" else shuffled(len(dataset))
