"""Is one method better than another on these test samples? A paired bootstrap answers.

Shape legend: N samples, G groups of them, D draws, k numbers summed.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from epic_pl.experiments.compare.statistics import Floats

DRAWS = 2000
_AT_A_TIME = 100
# of a picture, as a mean
_MOST_ROWS = 50
_NUMBERED = re.compile(r"(.+)#\d+")


class Difference(NamedTuple):
    """Candidate minus reference, its 95% interval, and the two-sided p-value of none."""

    difference: float
    low: float
    high: float
    p_value: float


def group_of(sample_id: str) -> str:
    """What a sample shares with others that are no evidence of their own.

    Several rows may show one picture; their ids are the picture's with ``#`` and a number. A
    bootstrap draws pictures, not rows, or it would take the rows for independent and find
    differences that are none.
    """
    numbered = _NUMBERED.fullmatch(sample_id)
    return numbered[1] if numbered else sample_id


def number_groups(ids: Iterable[str]) -> dict[str, int]:
    """For each sample the number of its group, from 0, as they come.

    Ids that would be one group (``post#1``, ``post#2``), or a few of many rows, are numbered by
    their source, nothing more: each is a group of its own.
    """
    groups = {sample_id: group_of(sample_id) for sample_id in ids}
    names = len(set(groups.values()))
    if names == 1 or len(groups) > _MOST_ROWS * names:
        groups = {sample_id: sample_id for sample_id in groups}
    numbers = {name: number for number, name in enumerate(dict.fromkeys(groups.values()))}
    return {sample_id: numbers[name] for sample_id, name in groups.items()}


def sums_of_groups(sums: Floats, ids: Sequence[str], numbers: Mapping[str, int]) -> Floats:
    """``(G, k)`` from the samples' ``(N, k)``; zeros where a group has none of these."""
    total = np.zeros((max(numbers.values()) + 1, sums.shape[1]))
    np.add.at(total, [numbers[sample_id] for sample_id in ids], sums)
    return total


def paired_bootstrap(
    candidate: Sequence[Floats],
    reference: Sequence[Floats],
    value: Callable[[Floats], Floats],
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """Compare the mean metric over seeds of two methods on the same samples.

    Groups are drawn with replacement, the same ones for all runs. The interval has the 2.5th and
    97.5th percentile of the differences; the p-value is twice the share of draws on the other side
    of zero, zeros counting on both. The seeds' own spread is not in it: it answers for the samples.

    Args:
        candidate: of each seed, what each group adds to the metric's sums ``(G, k)``.
        reference: the same; the number of seeds may differ.
        value: the metric ``(...)`` from sums ``(..., k)``.
        draws: D.
        seed: of the draws.
    """
    sides = (candidate, reference)

    def difference(weights: Floats) -> Floats:
        """``(D,)`` for weights ``(D, G)``."""
        one, other = (np.mean([value(weights @ sums) for sums in side], axis=0) for side in sides)
        return np.asarray(one - other)

    size = len(reference[0])
    observed = float(difference(np.ones((1, size)))[0])
    drawn = np.concatenate([difference(w) for w in _weights(size, draws, seed)])  # (D,)
    # differences of the same counts must not be told apart by the last bit
    drawn[np.abs(drawn) < 1e-12] = 0.0
    low, high = np.percentile(drawn, [2.5, 97.5])
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return Difference(observed, float(low), float(high), min(1.0, 2 * (tail + 1) / (draws + 1)))


def _weights(size: int, draws: int, seed: int) -> Iterator[Floats]:
    """How often each group is drawn, ``(<= 100, G)`` at a time."""
    rng = np.random.default_rng(seed)
    shares = np.full(size, 1 / size)
    for start in range(0, draws, _AT_A_TIME):
        count = min(_AT_A_TIME, draws - start)
        yield rng.multinomial(size, shares, size=count).astype(np.float64)
