"""The search: takes trials from Optuna, runs them, and continues an earlier search."""

import sqlite3
import sys
import time
from collections.abc import Iterator
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from epic_pl.cli.epic_cli import as_options, quiet_lightning
from epic_pl.experiments.tune.report import plot_history, trial_line, write_results
from epic_pl.experiments.tune.search import Search, values_of
from epic_pl.experiments.tune.trial import TrialWatch, run_trial
from epic_pl.utils.errors import ConfigError, first_line

_TRAINED = (TrialState.COMPLETE, TrialState.PRUNED)


def best_options(search: Search, trials: int, wait_s: float = 0) -> dict[str, Any] | None:
    """Do the trials that are left of all, write the results, and return the best options.

    A search that still runs in the folder is waited for, ``wait_s`` seconds at most.

    Raises:
        ConfigError: if another search is running in the folder, or has other options.
        KeyboardInterrupt: as it is, with the results so far written.
    """
    search.output.mkdir(parents=True, exist_ok=True)
    console = Console(file=sys.stderr, soft_wrap=True, highlight=False, markup=False)
    try:
        with FileLock(search.output / ".lock", timeout=wait_s):
            study = open_study(search)
            try:
                for trial in run_trials(study, search, trials):
                    console.print(trial_line(trial, search, trials))
            finally:
                best = write_results(study, search)
            if best is None:
                return None
            plot_history(study, search)
    except Timeout:
        raise ConfigError(
            f"Another search is running in {search.output}: wait for it, or give --output another "
            "folder."
        ) from None
    console.print(f"Best: {best}. Train with it: epic-pl fit --config X --config {best}")
    console.print(f"All trials: {search.output}/trials.csv, search.png")
    return study.best_trial.params


def open_study(search: Search) -> optuna.Study:
    """The study in the folder of the search, new or continued.

    The first trial has the config's own options.

    Raises:
        ConfigError: if the folder has a study of other options.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    epochs = search.parsed["trainer"]["max_epochs"] or 0
    file = search.output.resolve() / "study.db"
    direction = optuna.study.StudyDirection[f"{search.mode}imize".upper()]
    try:
        # a connection of our own: brackets or % of a folder have a meaning in an address
        storage = optuna.storages.RDBStorage(
            "sqlite:///study.db",
            engine_kwargs={"creator": lambda: sqlite3.connect(file, check_same_thread=False)},
        )
        study = optuna.create_study(
            storage=storage,
            study_name="epic-pl",
            direction=direction,
            pruner=optuna.pruners.MedianPruner(n_warmup_steps=max(1, epochs // 4)),
            load_if_exists=True,
        )
        key = study.user_attrs.get("key", None if study.trials else search.key)
        fits = key == search.key and study.direction == direction
        for number, trial in enumerate(study.trials):  # another option could name a class
            fits &= trial.distributions.items() <= search.space.items() and trial.number == number
            fits &= isinstance(trial.value, float | None)
            optuna.create_trial(  # checks that values are there and within their ranges
                state=trial.state,
                value=trial.value,
                params=trial.params,
                distributions=trial.distributions,
            )
    except Exception as error:  # of a file that anything may have written
        raise ConfigError(f"{file}: {first_line(error)}: give --output another folder.") from error
    if not fits:
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


def run_trials(study: optuna.Study, search: Search, total: int) -> Iterator[FrozenTrial]:
    """Run trials until there are ``total``.

    The options of trial i depend on ``seed_everything``, i and the results before it; trials that
    were cut off do not count, so an interrupted search continues unchanged.

    Raises:
        Exception: from a trial, if none has ever been trained.
        KeyboardInterrupt: as it is.
    """
    seed = int(search.parsed["seed_everything"] or 0)
    with quiet_lightning():
        while (done := sum(map(_counts, study.get_trials(deepcopy=False)))) < total:
            study.sampler = optuna.samplers.TPESampler(seed=(seed * 1_000_003 + done) % 2**32)
            trial = study.ask(dict(search.space))
            _run_one(study, trial, search)
            yield study.trials[trial.number]


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial came to its own end, which may be a failure; a killed one did not."""
    failed = trial.state == TrialState.FAIL
    return bool("message" in trial.user_attrs if failed else trial.state.is_finished())


def _run_one(study: optuna.Study, trial: optuna.Trial, search: Search) -> None:
    watch, start = TrialWatch(search, trial), time.monotonic()
    folder = search.output / "trials" / f"{trial.number:04d}"

    def fail(message: str) -> None:
        trial.set_user_attr("message", " ".join(message.split()))
        study.tell(trial, state=TrialState.FAIL)

    try:
        run_trial([*search.options, *as_options(trial.params)], folder, watch)
    except Exception as error:  # a trial may fail in any way; the search continues
        fail(f"{type(error).__name__}: {error}")
        # if none was ever trained, the fault is in the config and the next would fail as well
        if not study.get_trials(deepcopy=False, states=_TRAINED):
            raise
        return
    except BaseException as error:  # Lightning raises SystemExit on Ctrl-C
        study.tell(trial, state=TrialState.FAIL)
        raise KeyboardInterrupt from error
    trial.set_user_attr("seconds", round(time.monotonic() - start, 2))
    trial.set_user_attr("validations", watch.validations)
    if watch.value is None:
        fail(f"{search.monitor} was never a finite number")
    elif watch.pruned:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, watch.value)
