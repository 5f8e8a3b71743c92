"""The tolerances of tests that compare floats computed in two ways.

Another processor, batch size or shape picks another kernel, which sums in another order. Results
then differ by a few rounding errors of the largest number, and by more after a training or a fit,
which amplifies them. Assert bit-identity only where both ways run the same operations on the same
shapes.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch

# of the largest expected magnitude
TOLERANCES = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}
TRAINED = 10  # times as much


def assert_same(
    actual: Any, expected: Any, *, trained: bool = False, dtype: torch.dtype | None = None
) -> None:
    """Assert that floats are equal but for rounding: tensors, arrays, numbers, or nests of these.

    Args:
        actual: The floats under test; Python's own count as float32.
        expected: Floats of the same shape. The largest of a tensor sets its scale, at least a tenth
            of the largest in the nest: a gradient that should be zero is nothing but rounding.
        trained: Whether a training or a fit comes between, which amplifies rounding.
        dtype: The type in which an intermediate result was rounded, if coarser than the result's.
    """
    pairs = [(name, *map(_tensor, both)) for name, *both in _pairs(actual, expected)]
    scales = [_scale(right) for *_, right in pairs]
    for (name, found, right), scale in zip(pairs, scales, strict=True):
        dtypes = (found.dtype, right.dtype, dtype or right.dtype)
        share = max(TOLERANCES.get(each, 0.0) for each in dtypes) * (TRAINED if trained else 1)
        torch.testing.assert_close(
            found.double(),
            right.double(),
            rtol=0,
            atol=share * max(scale, max(scales) / 10),
            equal_nan=right.ndim == 0,  # a metric of no rows
            msg=lambda said, name=name: f"{name}: {said}",
        )


def assert_differ(one: Any, other: Any) -> None:
    """Assert that floats differ by more than the rounding of one computation."""
    with pytest.raises(AssertionError, match="are not close"):
        assert_same(one, other)


def _tensor(value: Any) -> torch.Tensor:
    return torch.as_tensor(value).detach()


def _scale(value: torch.Tensor) -> float:
    if not value.is_floating_point() or not value.isfinite().any():
        return 0.0
    return float(value[value.isfinite()].abs().max())


def _pairs(actual: Any, expected: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    if expected is None or isinstance(expected, (str, bool)):
        assert actual == expected, name
    elif isinstance(expected, Mapping):
        assert actual.keys() == expected.keys()
        for key, value in expected.items():
            yield from _pairs(actual[key], value, f"{name}/{key}")
    elif isinstance(expected, Sequence) and not all(
        isinstance(each, (int, float)) for each in expected
    ):
        assert len(actual) == len(expected)
        for number, value in enumerate(expected):
            yield from _pairs(actual[number], value, f"{name}/{number}")
    else:
        yield name, actual, expected
