"""Search space: ranges and choices of ``fit`` options, from YAML."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from epic_pl.errors import ConfigError

Scalar = str | int | float | bool | None
# set by the search in each trial, or the yardstick of all trials
_FIXED = (
    "seed_everything",
    "ckpt_path",
    "config",
    "checkpoint",
    "last_checkpoint",
    "early_stopping",
)


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, whole ones where both are; ``log`` draws factors."""

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def suggest(self, trial: Any, name: str) -> Scalar:
        """Draw a number by an Optuna trial."""
        draw = trial.suggest_int if self.whole else trial.suggest_float
        value: Scalar = draw(name, self.low, self.high, log=self.log)
        return value

    def holds(self, value: Any) -> bool:
        """Whether ``value`` can be drawn."""
        kind = int if self.whole else (int, float)
        number = isinstance(value, kind) and not isinstance(value, bool)
        return number and self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """One of ``values``."""

    values: tuple[Scalar, ...]

    def suggest(self, trial: Any, name: str) -> Scalar:
        """Draw a value by an Optuna trial."""
        value: Scalar = trial.suggest_categorical(name, self.values)
        return value

    def holds(self, value: Any) -> bool:
        """Whether ``value`` can be drawn."""
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
    if name.split(".")[0] in _FIXED:
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
    """A number, also from ``1e-4``, which YAML reads as text."""
    if isinstance(value, int):
        return None if isinstance(value, bool) else value
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def suggest(space: Space, trial: Any) -> dict[str, Scalar]:
    """A value for each option, drawn by an Optuna trial."""
    return {name: dimension.suggest(trial, name) for name, dimension in space.items()}


def any_values(space: Space) -> dict[str, Scalar]:
    """One value of each option."""
    return {
        name: each.low if isinstance(each, Range) else each.values[0]
        for name, each in space.items()
    }


def values_of(space: Space, parsed: Mapping[str, Any]) -> dict[str, Any]:
    """A parsed config's values of the options, as far as they are in the space."""
    found = {}
    for name, dimension in space.items():
        value: Any = parsed
        for key in name.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if dimension.holds(value):
            found[name] = value
    return found


def overlay(values: Mapping[str, Scalar]) -> dict[str, Any]:
    """A config that sets these options."""
    content: dict[str, Any] = {}
    for name, value in values.items():
        *sections, last = name.split(".")
        section = content
        for key in sections:
            section = section.setdefault(key, {})
        section[last] = value
    return content
