"""Search space: Optuna distributions of ``fit`` options, from YAML."""

from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from epic_pl.config_files import read_yaml
from epic_pl.errors import ConfigError

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution
Space = dict[str, Distribution]
# set by the search in each trial, or the yardstick of all trials
_SECTIONS = ("checkpoint", "last_checkpoint", "early_stopping")
_FIXED = ("seed_everything", "ckpt_path", "config", *_SECTIONS)


def read_space(path: str) -> Space:
    """The space of a YAML file: option -> {low, high, log} or a list of choices.

    Raises:
        ConfigError: if it cannot be read as that; it names the option.
    """
    content = read_yaml(path)
    if not isinstance(content, Mapping) or not content:
        raise ConfigError(f"{path} is no mapping of options to ranges or choices.")
    return {str(name): _read(path, str(name), fields) for name, fields in content.items()}


def _read(path: str, name: str, fields: Any) -> Distribution:
    if name.split(".")[0] in _FIXED:
        raise ConfigError(
            f"{path} searches {name}, which has to be the same in all trials: leave it out."
        )
    try:
        return _distribution(fields)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{name} of {path} is {fields!r}: write {{low: 1.0e-4, high: 1.0e-2, log: true}} with "
            "low below high, and above 0 where log is true; or a list of different words or "
            f"numbers ({error})."
        ) from error


def _distribution(fields: Any) -> Distribution:
    if isinstance(fields, list):
        scalars = all(value is None or isinstance(value, str | int | float) for value in fields)
        if not scalars or len(fields) < 2:
            raise ValueError("not a list of words or numbers")
        return CategoricalDistribution(fields)
    low, high, log = (lambda low, high, log=False: (low, high, log))(**fields)
    if float(low) >= float(high):  # 1e-4 is text in YAML
        raise ValueError("an empty range")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log)
    return FloatDistribution(float(low), float(high), log)


def values_of(space: Space, parsed: Mapping[str, Any]) -> dict[str, Any]:
    """A parsed config's values of the options, as far as they are in the space."""
    found = {}
    for name, each in space.items():
        value: Any = parsed
        for key in name.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(each, CategoricalDistribution):
            inside = value in each.choices
        else:
            kind = int if isinstance(each, IntDistribution) else int | float
            inside = isinstance(value, kind) and each.low <= value <= each.high
        if inside:
            found[name] = value
    return found


def overlay(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config that sets these options."""
    content = Namespace()  # type: ignore[no-untyped-call]  # jsonargparse
    for name, value in values.items():
        content[name] = value
    return content.as_dict()
