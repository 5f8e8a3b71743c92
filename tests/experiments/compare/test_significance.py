"""The paired bootstrap on data whose answer is known."""

import math
from functools import partial

import numpy as np
import pytest

from epic_pl.experiments.compare.significance import (
    group_of,
    number_groups,
    paired_bootstrap,
    sums_of_groups,
)
from epic_pl.experiments.compare.statistics import value_of

accuracy = partial(value_of, "accuracy", task="multiclass")


def _sums(correct):
    return np.stack([correct, np.ones(len(correct))], axis=1).astype(float)


def _two_sided(z):
    return math.erfc(abs(z) / math.sqrt(2))


def test_a_known_difference_has_the_interval_and_p_of_the_paired_z_test():
    rng = np.random.default_rng(0)
    both = rng.random(800)  # how hard a sample is, for either method
    better, worse = both + 0.1 * rng.random(800) < 0.8, both + 0.25 * rng.random(800) < 0.8
    found = paired_bootstrap([_sums(better)], [_sums(worse)], accuracy, draws=4000)
    each = better.astype(float) - worse
    error = each.std() / math.sqrt(800)
    assert found.difference == pytest.approx(each.mean())
    assert found.low == pytest.approx(each.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(each.mean() + 1.96 * error, abs=0.1 * error)
    assert found.p_value < 0.001
    assert _two_sided(each.mean() / error) < 0.001


def test_a_small_difference_has_about_the_p_value_of_the_z_test():
    # 30 samples only the one gets right, 20 only the other
    one, other = np.ones(500), np.ones(500)
    other[:30], one[30:50] = 0, 0
    found = paired_bootstrap([_sums(one)], [_sums(other)], accuracy, draws=4000)
    each = one - other
    expected = _two_sided(each.mean() / (each.std() / math.sqrt(500)))
    assert 0.1 < expected < 0.2
    assert found.p_value == pytest.approx(expected, abs=0.03)
    assert found.low < 0 < found.high


def test_without_a_difference_about_one_in_twenty_is_called_significant():
    rng = np.random.default_rng(1)
    called = 0
    for number in range(300):
        one, other = (_sums(rng.random(150) < 0.7) for _ in range(2))
        found = paired_bootstrap([one], [other], accuracy, 400, seed=number)
        called += found.p_value < 0.05
    assert 5 <= called <= 28  # 15 expected, standard deviation 3.8


def test_equal_methods_differ_by_nothing():
    same = _sums(np.arange(50) % 3 == 0)
    found = paired_bootstrap([same], [same, same], accuracy)
    assert found == (0, 0, 0, 1)


def test_rows_of_one_picture_are_no_evidence_of_their_own():
    rng = np.random.default_rng(2)
    one, other = (rng.random(100) < rate for rate in (0.75, 0.65))
    ids = [f"picture{number}" for number in range(100)]
    repeated = [f"{name}#{row}" for name in ids for row in range(5)]
    alone = paired_bootstrap([_sums(one)], [_sums(other)], accuracy)
    sums = [_sums(np.repeat(each, 5)) for each in (one, other)]
    together = [sums_of_groups(each, repeated, number_groups(repeated)) for each in sums]
    grouped = paired_bootstrap(together[:1], together[1:], accuracy)
    assert grouped == pytest.approx(alone)
    naive = paired_bootstrap(sums[:1], sums[1:], accuracy)
    assert naive.high - naive.low < 0.6 * (alone.high - alone.low)


def test_the_mean_over_seeds_is_compared():
    right, wrong = _sums(np.ones(10)), _sums(np.zeros(10))
    found = paired_bootstrap([right, wrong], [wrong, wrong, wrong], accuracy)
    assert found.difference == found.low == found.high == 0.5


def test_groups_are_numbered_as_they_come():
    assert group_of("1F600#3") == group_of("1F600") == "1F600"
    ids = ["b#0", "a", "b#1"]
    numbers = number_groups([*ids, "c#0"])
    assert numbers == {"b#0": 0, "b#1": 0, "a": 1, "c#0": 2}
    sums = sums_of_groups(np.array([[1.0, 2], [3, 4], [5, 6]]), ids, numbers)
    assert sums.tolist() == [[6, 8], [3, 4], [0, 0]]


@pytest.mark.parametrize("name", ["#{}", "post#{}", "{}", "C#{}a", "issue {}#"])
def test_ids_that_only_number_the_rows_are_of_no_group(name):
    ids = [name.format(number) for number in range(20)]
    assert number_groups(ids) == {sample_id: number for number, sample_id in enumerate(ids)}


def test_a_few_sources_are_no_groups_either():
    ids = [f"{source}#{number}" for source in ("imdb", "rt") for number in range(200)]
    assert len(set(number_groups(ids).values())) == 400


def test_seeds_on_samples_of_their_own_are_each_weighed_by_what_is_drawn_of_theirs():
    rng = np.random.default_rng(3)
    tests = [[f"picture{number}" for number in rng.choice(300, 200, replace=False)] for _ in "abc"]
    hard = {f"picture{number}": value for number, value in enumerate(rng.random(300))}
    sides = [
        [_sums(np.array([hard[name] for name in ids]) < rate) for ids in tests]
        for rate in (0.8, 0.72)
    ]
    numbers = number_groups(name for ids in tests for name in ids)
    better, worse = (
        [sums_of_groups(sums, ids, numbers) for sums, ids in zip(side, tests, strict=True)]
        for side in sides
    )
    found = paired_bootstrap(better, worse, accuracy, draws=300)
    expected = np.mean([(0.72 <= hard[name] < 0.8) for ids in tests for name in ids])
    assert found.difference == pytest.approx(expected)
    # the same draws by hand: pictures with replacement, each as often in every test split
    drawn = []
    names = list(numbers)
    weights = np.random.default_rng(0).multinomial(
        len(names), np.full(len(names), 1 / len(names)), 100
    )
    for weight in weights:
        often = dict(zip(names, weight, strict=True))
        gains = []
        for ids in tests:
            picked = [name for name in ids for _ in range(often[name])]
            gains.append(np.mean([0.72 <= hard[name] < 0.8 for name in picked]))
        drawn.append(np.mean(gains))
    again = paired_bootstrap(better, worse, accuracy, draws=100)
    assert (again.low, again.high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]))
