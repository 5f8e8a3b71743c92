"""What is searched: ranges and choices of options of ``fit``, from YAML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from epic_pl.errors import ConfigError

Scalar = str | int | float | bool | None
# the search sets these itself in each trial, or they would change what trials are measured by
_FIXED = ("seed_everything", "ckpt_path", "config")
_FIXED_SECTIONS = ("checkpoint", "last_checkpoint", "early_stopping")


class Suggests(Protocol):
    """The part of an Optuna trial that draws."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        """A number of a range."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool) -> int:
        """A whole number of a range, both ends in it."""

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        """One of several."""


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, whole ones where both are; by factors if ``log``."""

    low: float
    high: float
    log: bool = False

    def suggest(self, trial: Suggests, name: str) -> Scalar:
        """Draw one."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, float(self.low), float(self.high), log=self.log)

    def holds(self, value: Any) -> bool:
        """Whether ``value`` could be drawn."""
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        kind = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        return bool(kind and self.low <= value <= self.high)


@dataclass(frozen=True)
class Choice:
    """One of ``values``."""

    values: tuple[Scalar, ...]

    def suggest(self, trial: Suggests, name: str) -> Scalar:
        """Draw one."""
        return trial.suggest_categorical(name, self.values)

    def holds(self, value: Any) -> bool:
        """Whether ``value`` could be drawn."""
        return value in self.values


Space = dict[str, Range | Choice]


def read_space(path: str) -> Space:
    """The space of a YAML file: option -> {low, high, log} or a list of choices.

    Raises:
        ConfigError: if it cannot be read as that; it names the option.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"The space {path} cannot be read: {error}.") from error
    if not isinstance(content, Mapping) or not content:
        raise ConfigError(f"{path} is no mapping of options to ranges or choices.")
    return {str(name): _dimension(path, str(name), fields) for name, fields in content.items()}


def _dimension(path: str, name: str, fields: Any) -> Range | Choice:
    if name in _FIXED or name.split(".")[0] in _FIXED_SECTIONS:
        raise ConfigError(
            f"{path} searches {name}, which has to be the same in all trials: leave it out."
        )
    if isinstance(fields, list):
        scalars = all(value is None or isinstance(value, str | int | float) for value in fields)
        if scalars and len(fields) > 1 and len(set(map(repr, fields))) == len(fields):
            return Choice(tuple(fields))
    elif isinstance(fields, Mapping) and {"low", "high"} <= set(fields) <= {"low", "high", "log"}:
        low, high, log = _number(fields["low"]), _number(fields["high"]), fields.get("log", False)
        if low is not None and high is not None and low < high and (not log or low > 0):
            return Range(low, high, bool(log))
    raise ConfigError(
        f"{name} of {path} is {fields!r}: write {{low: 1.0e-4, high: 1.0e-2, log: true}} with low "
        "below high, and above 0 where log is true; or a list of different words or numbers."
    )


def _number(value: Any) -> float | int | None:
    """Also of ``1e-4``, which YAML takes for a word."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def suggest(space: Space, trial: Suggests) -> dict[str, Scalar]:
    """A value for each option."""
    return {name: dimension.suggest(trial, name) for name, dimension in space.items()}


def values_of(space: Space, parsed: Mapping[str, Any]) -> dict[str, Any]:
    """What a parsed config has for the options of the space, so far as they lie in it."""
    found = {}
    for name, dimension in space.items():
        value: Any = parsed
        for key in name.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if dimension.holds(value):
            found[name] = value
    return found


def overlay(values: Mapping[str, Scalar]) -> dict[str, Any]:
    """A config that sets these options alone."""
    content: dict[str, Any] = {}
    for name, value in values.items():
        *sections, last = name.split(".")
        section = content
        for key in sections:
            section = section.setdefault(key, {})
        section[last] = value
    return content
