"""The search: takes trials from Optuna, runs them, and continues an earlier search."""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from epic_pl.cli import as_options, quiet_lightning
from epic_pl.errors import ConfigError, first_line
from epic_pl.experiments.options import parsed_options, refuse_own, run_key
from epic_pl.experiments.tune.space import Space, values_of
from epic_pl.experiments.tune.trial import TrialWatch, run_trial

_OWN_OPTIONS = ("ckpt_path", "trainer.default_root_dir")
_TRAINED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Search:
    """Subject of a study.

    ``options`` of ``fit`` for all trials, and ``parsed``; the ``monitor`` of validation and its
    ``mode``, "max" or "min"; whether the best epoch of a trial counts, as ``fit`` would keep it,
    or the last; the folder for all files.
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
        """Hash of everything that makes two trials comparable."""
        known = {name: value for name, value in self.parsed.items() if name != "config"}
        space = {name: repr(each) for name, each in self.space.items()}
        return run_key(known, space)


def plan_search(shared: Sequence[str], space: Space, output: Path) -> Search:
    """A search on the metric by which the config keeps its best checkpoint, or stops early.

    Raises:
        ConfigError: if that is no metric of validation, or the search sets an option itself.
        ArgumentError: if ``fit`` does not know an option.
    """
    refuse_own("tune", _OWN_OPTIONS, shared)
    parsed = parsed_options(shared)
    keeps_best = parsed["checkpoint"]["monitor"] is not None
    section = "checkpoint" if keeps_best else "early_stopping"
    monitor, mode = parsed[section]["monitor"], parsed[section]["mode"]
    if not str(monitor).startswith("val/"):
        raise ConfigError(
            f"{section}.monitor is {monitor!r}, and the search needs a metric of the validation "
            f"split, as val/accuracy: set it in the config or by --{section}.monitor."
        )
    return Search(tuple(shared), parsed, space, monitor, mode, keeps_best, output)


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
        # by a connection of our own: in an address, brackets or % of a folder mean other things
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
        for number, each in enumerate(study.trials):  # another option could name a class
            fits &= each.distributions.items() <= search.space.items() and each.number == number
            fits &= isinstance(each.value, float | None)
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


def run_trials(
    study: optuna.Study, search: Search, total: int
) -> Iterator[optuna.trial.FrozenTrial]:
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


def _counts(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether a trial came to its own end, which may be a failure; a killed one did not."""
    failed = trial.state == TrialState.FAIL
    return bool("message" in trial.user_attrs if failed else trial.state.is_finished())


def _run_one(study: optuna.Study, trial: optuna.Trial, search: Search) -> None:
    def report(value: float, step: int) -> bool:
        trial.report(value, step)
        return trial.should_prune()

    def end(state: TrialState, message: str | None = None, value: float | None = None) -> None:
        if message is not None:
            trial.set_user_attr("message", " ".join(message.split()))
        study.tell(trial, value, state)

    watch = TrialWatch(search.monitor, search.mode, report, search.keeps_best)
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
    if watch.value is None:
        end(TrialState.FAIL, f"{search.monitor} was never a finite number")
    elif watch.pruned:
        end(TrialState.PRUNED)
    else:
        end(TrialState.COMPLETE, value=watch.value)
