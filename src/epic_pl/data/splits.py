"""Seeded, stratified splits, which keep rows of one image together.

Rows of one image in both training and validation would make validation scores too high.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from epic_pl.utils.errors import DataError

Indices = npt.NDArray[np.int64]
Sizes = Mapping[str, int | float]
"""Rows (int) of each part, or its share of all rows (float)."""


def stratified_split(
    labels: Sequence[int] | Indices, sizes: Sizes, seed: int
) -> dict[str, Indices]:
    """Divide rows so that every part has the class frequencies of the whole.

    Rows are shuffled within their class and concatenated, class after class. The parts take rows
    of this sequence in turns, in proportion to their sizes. Sizes are exact, class counts nearly.

    Args:
        labels: ``(N,)`` class indices.
        sizes: sizes of the parts; the remaining rows belong to no part.
        seed: seed of the shuffle.

    Returns:
        Row indices of each part, in ascending order; parts are disjoint.
    """
    classes = np.asarray(labels, dtype=np.int64)
    total = classes.size
    counts = _part_sizes(sizes, total)
    taken = np.array([*counts.values(), total - sum(counts.values())], dtype=np.int64)
    shuffled = np.random.default_rng(seed).permutation(total)
    line = shuffled[np.argsort(classes[shuffled], kind="stable")]
    # the ideal position of row j of n in a part is (j + 1/2) N / n
    place = np.concatenate([(np.arange(n) + 0.5) * (total / max(n, 1)) for n in taken])
    owner = np.repeat(np.arange(taken.size), taken)[np.argsort(place, kind="stable")]
    return {name: np.sort(line[owner == part]) for part, name in enumerate(counts)}


def _part_sizes(sizes: Sizes, total: int) -> dict[str, int]:
    """Number of rows of each part; sums are rounded, so that shares with sum 1 use all rows."""
    counts: dict[str, int] = {}
    share, used = 0.0, 0
    for name, size in sizes.items():
        if isinstance(size, float):
            share += size
            counts[name], used = round(share * total) - used, round(share * total)
        else:
            counts[name] = int(size)
    if min(sizes.values(), default=0) < 0 or sum(counts.values()) > total:
        raise DataError(f"The splits {dict(sizes)} are negative or more than the {total} rows.")
    return counts


def grouped_split(
    labels: Sequence[Sequence[int]], groups: Indices, sizes: Sizes, seed: int
) -> Indices:
    """Part number of each row: 0 is training, 1, 2, ... are the parts of ``sizes`` in order.

    Rows of a group stay together, so sizes count groups. Rows with several labels are stratified by
    their rarest label, then by the next one. If training has no row of a class, one group with that
    class is moved to it.
    """
    total = len(labels)
    shares = {k: float(v) if isinstance(v, float) else v / total for k, v in sizes.items()}
    if min(shares.values(), default=0) < 0 or sum(shares.values()) >= 1:
        raise DataError(f"Sizes {dict(sizes)} leave none of {total} rows, or are negative.")
    codes, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    asked = sizes
    if len(codes) < total:
        asked = {name: max(round(share * len(codes)), 1) for name, share in shares.items() if share}
        if sum(asked.values()) >= len(codes):
            raise DataError(
                f"{total:,} rows show only {len(codes):,} different images (or texts without one), "
                f"too few to cut {dict(sizes)} off. Name the splits in a column (split_column)."
            )
    of_group = np.zeros(len(codes), dtype=np.int64)
    parts = stratified_split(_strata([labels[row] for row in first]), asked, seed)
    for name, rows in parts.items():
        of_group[rows] = 1 + list(sizes).index(name)
    part = of_group[inverse]
    flat = np.array([c for row in labels for c in row], dtype=np.int64)
    rows = np.repeat(np.arange(total), [len(row) for row in labels])
    for label in np.setdiff1d(flat, flat[part[rows] == 0]):  # classes without a training row
        part[inverse == inverse[rows[flat == label][0]]] = 0
    return part


def _strata(labels: Sequence[Sequence[int]]) -> list[int]:
    """A number for each row's set of labels; sets with the same rarest labels are neighbours."""
    count = Counter(label for row in labels for label in row)
    keys = [tuple(sorted(row, key=lambda label: (count[label], label))) for row in labels]
    number = {key: index for index, key in enumerate(sorted(set(keys)))}
    return [number[key] for key in keys]
