import os

import pytest

from epic_pl.utils.untrusted import require_flat, require_regular


@pytest.mark.parametrize("value", ["\0", [1, "a", None], {"a": [{"b": (1, 2)}]}, [[]] * 200_000])
def test_what_json_holds_is_flat_enough(value):
    require_flat(value)


# circles, NUL characters and too many values are refused in test_cli.py
@pytest.mark.parametrize("most", [None, 1000])
def test_deep_values_end(most):
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
