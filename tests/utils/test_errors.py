import pytest

from epic_pl.utils.errors import ConfigError, DataError, raised_as


def test_errors_are_raised_as_one_of_this_package_unless_they_are_or_are_not_named():
    with (
        pytest.raises(DataError, match=r"^a\.csv is bad: no comma\. Fix it\.$") as raised,
        raised_as(DataError, "a.csv is bad", "Fix it."),
    ):
        raise ValueError("no comma.\nlong trace")
    assert isinstance(raised.value.__cause__, ValueError)
    with pytest.raises(DataError, match=r"is bad: KeyError\.$"), raised_as(DataError, "a is bad"):
        raise KeyError
    with pytest.raises(ConfigError, match=r"^x$"), raised_as(DataError, "a is bad"):
        raise ConfigError("x")
    with pytest.raises(KeyError), raised_as(DataError, "a is bad", "", OSError):
        raise KeyError
