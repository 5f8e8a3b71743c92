"""The search: takes trials from Optuna, runs them, and continues an earlier search."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from epic_pl.cli import quiet_lightning
from epic_pl.errors import ConfigError
from epic_pl.experiments.options import as_options, digest, parsed_options, refuse_own
from epic_pl.experiments.tune.space import Space, any_values, values_of
from epic_pl.experiments.tune.trial import TrialWatch, run_trial

_OWN_OPTIONS = ("ckpt_path", "trainer.default_root_dir")
_PRUNE_AFTER = 5  # trials before the pruner has medians
_DRAW_FIRST = 10  # random draws before the sampler has a model
_TRAINED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Search:
    """Subject of a study.

    ``options`` of ``fit`` for all trials, and ``parsed``; the ``monitor`` of validation and its
    ``mode``, "max" or "min"; the ``seed`` of the search, and its folder.
    """

    options: tuple[str, ...]
    parsed: dict[str, Any]
    space: Space
    monitor: str
    mode: str
    seed: int
    output: Path

    @property
    def key(self) -> str:
        """Hash of everything that makes two trials comparable."""
        known = {name: value for name, value in self.parsed.items() if name != "config"}
        return digest(known, {name: repr(each) for name, each in self.space.items()}, self.seed)


def plan_search(shared: Sequence[str], space: Space, seed: int, output: Path) -> Search:
    """A search on the metric by which the config keeps its best checkpoint.

    Raises:
        ConfigError: if that is no metric of validation, or the search sets an option itself.
        ArgumentError: if ``fit`` does not know an option.
    """
    refuse_own("tune", _OWN_OPTIONS, shared)
    parsed = parsed_options(shared)
    # refuses unknown options of the space by name
    parsed_options([*shared, *as_options(any_values(space))])
    monitor, mode = parsed["checkpoint"]["monitor"], parsed["checkpoint"]["mode"]
    if not str(monitor).startswith("val/"):
        raise ConfigError(
            f"checkpoint.monitor is {monitor!r}, and the search needs a metric of the validation "
            "split, as val/accuracy: set it in the config or by --checkpoint.monitor."
        )
    return Search(tuple(shared), parsed, space, monitor, mode, seed, output)


def open_study(search: Search) -> optuna.Study:
    """The study in the folder of the search, new or continued.

    The first trial has the config's own options.

    Raises:
        ConfigError: if the folder has a study of other options.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    epochs = search.parsed["trainer"]["max_epochs"] or 0
    study = optuna.create_study(
        storage=f"sqlite:///{search.output.resolve() / 'study.db'}",
        study_name="epic-pl",
        direction="maximize" if search.mode == "max" else "minimize",
        pruner=optuna.pruners.MedianPruner(_PRUNE_AFTER, n_warmup_steps=max(1, epochs // 4)),
        load_if_exists=True,
    )
    if study.user_attrs.get("key", search.key) != search.key:
        raise ConfigError(
            f"{search.output} has a search of other options, of another space, or of a table that "
            "has changed since, whose trials cannot be compared with these: give --output another "
            "folder, or remove that one."
        )
    study.set_user_attr("key", search.key)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        # this process holds the folder's lock, so the trial's process has ended
        study.tell(trial.number, state=TrialState.FAIL)
    first = values_of(search.space, search.parsed)
    if first and not study.get_trials(deepcopy=False, states=(*_TRAINED, TrialState.WAITING)):
        study.enqueue_trial(first)
    return study


def was_cut_off(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a kill, Ctrl-C or the time limit ended a trial; one that failed has a message."""
    return trial.state == TrialState.FAIL and "message" not in trial.user_attrs


def finished(study: optuna.Study) -> int:
    """Number of trials that have ended by themselves."""
    trials = study.get_trials(deepcopy=False)
    return sum(each.state.is_finished() and not was_cut_off(each) for each in trials)


def run_trials(
    study: optuna.Study, search: Search, total: int, deadline: float | None
) -> Iterator[optuna.trial.FrozenTrial]:
    """Run trials until ``total`` are finished, or ``time.monotonic()`` is past the deadline.

    The options of trial i depend on the seed, i and the results before it, so that a search which
    was interrupted between two trials continues unchanged.

    Yields:
        Each trial when it has ended.

    Raises:
        Exception: from a trial, if none has ever been trained.
        KeyboardInterrupt: as it is.
    """
    with quiet_lightning():
        while finished(study) < total:
            if deadline is not None and time.monotonic() >= deadline:
                return
            number = len(study.get_trials(deepcopy=False))
            seed = (search.seed * 1_000_003 + number) % 2**32
            study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_DRAW_FIRST)
            trial = study.ask(dict(search.space))
            _run_one(study, trial, search, deadline)
            yield study.get_trials(deepcopy=False)[trial.number]


def _run_one(
    study: optuna.Study, trial: optuna.Trial, search: Search, deadline: float | None
) -> None:
    def report(value: float, step: int) -> bool:
        trial.report(value, step)
        return trial.should_prune()

    def end(state: TrialState, message: str | None = None, value: float | None = None) -> None:
        if message is not None:
            trial.set_user_attr("message", " ".join(message.split()))
        study.tell(trial, value, state)

    watch = TrialWatch(search.monitor, search.mode, report, deadline)
    folder, start = search.output / "trials" / f"{trial.number:04d}", time.monotonic()
    try:
        run_trial([*search.options, *as_options(trial.params)], folder, watch)
    except Exception as error:  # a trial may fail in any way; the search continues
        end(TrialState.FAIL, f"{type(error).__name__}: {error}")
        # if none was ever trained, the fault is in the config and the next would fail as well
        if not study.get_trials(deepcopy=False, states=_TRAINED):
            raise
        return
    except BaseException as error:
        # Lightning raises SystemExit on Ctrl-C
        end(TrialState.FAIL)
        raise KeyboardInterrupt from error
    trial.set_user_attr("seconds", round(time.monotonic() - start, 2))
    trial.set_user_attr("validations", watch.validations)
    if watch.state == "stopped":
        end(TrialState.FAIL)
    elif watch.best is None:
        end(TrialState.FAIL, f"{search.monitor} was never a finite number")
    elif watch.state == "pruned":
        end(TrialState.PRUNED, f"pruned at validation {watch.validations}")
    else:
        end(TrialState.COMPLETE, value=watch.best)
