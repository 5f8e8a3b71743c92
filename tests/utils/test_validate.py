"""Types of options, as files and users give them."""

from typing import Any, Literal

import pytest

from epic_pl.utils.errors import ConfigError
from epic_pl.utils.validate import check_type


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Literal["cls", "mean"], "men", r"must be one of cls, mean; got 'men'\. Did you mean"),
        (Literal["cls", "mean"], ["cls"], "must be one of cls, mean"),
        (Literal[1], True, r"is True, but must be of type typing.Literal\[1\]\."),
        (Literal[1], "1", "is '1', but must be"),
        (int, True, "is True, but must be of type int"),
        (float, float("nan"), "is nan, but must be of type float, and finite"),
        (dict[str, Any], [], "is \\[\\], but must be of type dict"),
    ],
)
def test_a_value_of_another_type_is_an_error_that_names_both(kind, value, message):
    with pytest.raises(ConfigError, match=f"pooling {message}"):
        check_type(kind, "pooling", value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [(Literal["cls"], "cls"), (Literal[1], 1), (float, 1), (int | None, None), (list[str], ["a"])],
)
def test_a_value_of_the_type_is_accepted(kind, value):
    check_type(kind, "pooling", value)
