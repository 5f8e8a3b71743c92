import math

import pytest

from epic_pl.module.schedule import warmup_cosine


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 1 / 11),  # never zero: the first step must train
        (4, 5 / 11),
        (9, 10 / 11),
        (10, 1.0),
        (35, 0.5 * (1 + math.sqrt(0.5))),
        (60, 0.5),
        (110, 0.0),
        (200, 0.0),  # past the end it stays down
    ],
)
def test_known_points(step, expected):
    assert warmup_cosine(step, 110, 10) == pytest.approx(expected, abs=1e-12)


def test_rises_then_falls():
    factors = [warmup_cosine(step, 50, 8) for step in range(51)]
    assert factors[:9] == sorted(factors[:9])
    assert factors[8:] == sorted(factors[8:], reverse=True)
    assert all(0 <= factor <= 1 for factor in factors)


def test_without_warmup_it_starts_at_the_top():
    assert warmup_cosine(0, 100, 0) == 1.0


def test_an_endless_training_keeps_its_rate():
    assert warmup_cosine(2, math.inf, 4) == pytest.approx(3 / 5)
    assert [warmup_cosine(step, math.inf, 4) for step in (4, 5, 10**9)] == [1.0] * 3


@pytest.mark.parametrize("total", [0, 1, 5, 10])
def test_a_training_no_longer_than_its_warmup(total):
    assert all(0 <= warmup_cosine(step, total, 10) <= 1 for step in range(20))
