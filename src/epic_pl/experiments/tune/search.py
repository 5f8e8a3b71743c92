"""The definition of a search: a space of ``fit`` options as Optuna distributions, and a metric."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from epic_pl.experiments.options import images_key, options_key, parse_fit, refuse_own
from epic_pl.nn.methods import Method
from epic_pl.utils.config_files import find_packaged, read_yaml
from epic_pl.utils.errors import ConfigError
from epic_pl.utils.plugins import find_class

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution
Space = dict[str, Distribution]
_OWN_OPTIONS = ("ckpt_path", "trainer.default_root_dir")
# the search sets these in every trial, or needs them equal to compare trials
_SECTIONS = ("checkpoint", "last_checkpoint", "early_stopping")
_FIXED = ("seed_everything", "ckpt_path", "config", *_SECTIONS)


@dataclass(frozen=True)
class Search:
    """The definition of a search.

    Attributes:
        options: options of ``fit``, for all trials.
        parsed: all options of ``fit``, with defaults.
        space: distribution of each option that is searched.
        monitor: validation metric.
        mode: "max" or "min", whichever is better.
        keeps_best: whether the best epoch of a trial counts, as in ``fit``, or the last one.
        output: folder of all files.
    """

    options: tuple[str, ...]
    parsed: dict[str, Any]
    space: Space
    monitor: str
    mode: str
    keeps_best: bool
    output: Path

    @property
    def key(self) -> str:
        """Hash of everything that must be equal for two trials to be comparable."""
        known = {name: value for name, value in self.parsed.items() if name != "config"}
        space = {name: repr(option) for name, option in self.space.items()}
        return options_key(known, images_key(known["data"]), space)


def plan_search(shared: Sequence[str], space: str | None, output: Path) -> Search:
    """Define a search on the metric that the config monitors for checkpoints or early stopping.

    Args:
        shared: options of ``fit``, for all trials.
        space: YAML file of the space, or a packaged one's name; None for what suits the method.
        output: folder of all files.

    Raises:
        ConfigError: if that is no validation metric, or the search sets an option itself.
        ArgumentError: if ``fit`` does not know an option.
    """
    refuse_own("tune", _OWN_OPTIONS, shared)
    parsed = parse_fit(shared)
    keeps_best = parsed["checkpoint"]["monitor"] is not None
    section = "checkpoint" if keeps_best else "early_stopping"
    monitor, mode = parsed[section]["monitor"], parsed[section]["mode"]
    if not str(monitor).startswith("val/"):
        raise ConfigError(
            f"{section}.monitor is {monitor!r}, no metric of the validation split (val/accuracy)."
        )
    distributions = (
        read_space(find_packaged("spaces", space)) if space else _space_of_method(parsed)
    )
    return Search(tuple(shared), parsed, distributions, monitor, mode, keeps_best, output)


def _space_of_method(parsed: Mapping[str, Any]) -> Space:
    """The method's own space; for methods that name none, the options of wide.yaml they have."""
    own = find_class(Method, parsed["model"]["init_args"]["method"]["class_path"]).space
    space = read_space(find_packaged("spaces", "wide.yaml" if own == Method.space else own))
    kept = {}
    for name, distribution in space.items():
        with suppress(LookupError, TypeError):
            _value(parsed, name)
            kept[name] = distribution
    return kept


def _value(parsed: Mapping[str, Any], name: str) -> Any:
    value: Any = parsed
    for key in name.split("."):
        if "init_args" in value and key != "init_args":
            value = value["init_args"]  # of a class
        value = value[key]
    return value


def read_space(path: str) -> Space:
    """Read the space of a YAML file: option -> {low, high, log} or a list of choices.

    Raises:
        ConfigError: if the file has another content; the message names the option.
    """
    content = read_yaml(path)
    if not isinstance(content, Mapping) or not content:
        raise ConfigError(f"{path} must map options to ranges or lists of choices.")
    space = {}
    for name, fields in content.items():
        if str(name).split(".")[0] in _FIXED:
            raise ConfigError(f"{path} searches {name}, the same in all trials: leave it out.")
        try:
            space[str(name)] = _distribution(fields)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{name} of {path} is {fields!r} ({error}): write {{low: 1.0e-4, high: 1.0e-2, "
                "log: true} with low < high (above 0 for log), or a list of words or numbers."
            ) from error
    return space


def _distribution(fields: Any) -> Distribution:
    if isinstance(fields, list):
        scalars = all(value is None or isinstance(value, str | int | float) for value in fields)
        if not scalars or len(fields) < 2:
            raise ValueError("not a list of words or numbers")
        return CategoricalDistribution(fields)
    return _range(**fields)


def _range(low: Any, high: Any, log: bool = False) -> Distribution:
    if float(low) >= float(high):  # YAML reads 1e-4 as text
        raise ValueError("an empty range")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log)
    return FloatDistribution(float(low), float(high), log)


def values_of(space: Space, parsed: Mapping[str, Any]) -> dict[str, Any]:
    """The config's own values of the searched options, without those outside of the space."""
    values = {}
    for name, distribution in space.items():
        # the option is missing, or its value is outside of the distribution
        with suppress(LookupError, TypeError, ValueError):
            value = _value(parsed, name)
            optuna.create_trial(value=0.0, params={name: value}, distributions={name: distribution})
            values[name] = value
    return values


def suggest(trial: optuna.Trial, name: str, distribution: Distribution) -> Any:
    """The value of an option that Optuna suggests for a trial."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    low, high, log = distribution.low, distribution.high, distribution.log
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, int(low), int(high), log=log)
    return trial.suggest_float(name, low, high, log=log)
