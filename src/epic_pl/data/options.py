"""Checks of options, with messages that name them."""

from collections.abc import Sequence

from epic_pl.errors import ConfigError


def require_at_least(name: str, value: int, least: int) -> None:
    """Refuse a number that is too small.

    Raises:
        ConfigError: ``value`` is less than ``least``.
    """
    if value < least:
        raise ConfigError(f"{name} must be at least {least}, got {value}.")


def require_one_of(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a word that is none of the choices.

    Raises:
        ConfigError: it is none.
    """
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}; got {value!r}.")
