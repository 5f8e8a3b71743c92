import os

import pytest

from epic_pl.untrusted import require_flat, require_regular


@pytest.mark.parametrize("value", ["\0", [1, "a", None], {"a": [{"b": (1, 2)}]}, [[]] * 200_000])
def test_what_json_holds_is_flat_enough(value):
    require_flat(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": ["x\0"]}, "NUL character"),
        ([[1] * 50] * 50, "more than 2,000 values"),
    ],
)
def test_options_are_few_and_without_nul(value, message):
    with pytest.raises(ValueError, match=message):
        require_flat(value, 2000)


def test_circles_and_deep_values_end():
    circle = []
    circle += [circle, circle]
    for most in (None, 1000):
        if most:
            with pytest.raises(ValueError, match="more than 1,000 values"):
                require_flat(circle, most)
        deep = "x"
        for _ in range(100_000):
            deep = [deep]
        with pytest.raises(ValueError, match="nested more than 64 deep"):
            require_flat(deep, most)


def test_pipes_and_devices_are_not_regular(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", os.devnull):
        with pytest.raises(OSError, match="no regular file"):
            require_regular(path)
    for path in (tmp_path, tmp_path / "none", "a\0", "x" * 300, __file__):
        require_regular(path)  # opening them tells
