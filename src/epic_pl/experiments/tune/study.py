"""The search: takes trials from Optuna, runs them, and continues an earlier search."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epic_pl.cli import quiet_lightning
from epic_pl.errors import ConfigError
from epic_pl.experiments.options import as_options, digest, parsed_options, refuse_own
from epic_pl.experiments.tune.space import Space, any_values, suggest, values_of
from epic_pl.experiments.tune.trial import Ended, TrialWatch, run_trial

_OWN_OPTIONS = ("ckpt_path", "trainer.default_root_dir")
_PRUNE_AFTER = 5  # trials before the pruner has medians
_DRAW_FIRST = 10  # random draws before the sampler has a model


def load_optuna() -> Any:
    """The library, which is an extra.

    Raises:
        ConfigError: if it cannot be imported.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            f"epic-pl tune needs the optuna library, which cannot be imported ({error}): "
            "pip install optuna."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


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


def open_study(search: Search) -> Any:
    """The study in the folder of the search, new or continued.

    The first trial has the config's own options.

    Raises:
        ConfigError: if the folder has a study of other options.
    """
    optuna = load_optuna()
    epochs = search.parsed["trainer"]["max_epochs"] or 0
    study = optuna.create_study(
        storage=f"sqlite:///{search.output.resolve() / 'study.db'}",
        study_name="epic-pl",
        direction="maximize" if search.mode == "max" else "minimize",
        pruner=optuna.pruners.MedianPruner(_PRUNE_AFTER, n_warmup_steps=max(1, epochs // 4)),
        load_if_exists=True,
    )
    if study.user_attrs.setdefault("key", search.key) != search.key:
        raise ConfigError(
            f"{search.output} has a search of other options, of another space, or of a table that "
            "has changed since, whose trials cannot be compared with these: give --output another "
            "folder, or remove that one."
        )
    study.set_user_attr("key", search.key)
    states = optuna.trial.TrialState
    for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        # this process holds the folder's lock, so the trial's process has ended
        study.tell(trial.number, state=states.FAIL)
    first = values_of(search.space, search.parsed)
    known = (states.COMPLETE, states.PRUNED, states.WAITING)
    if first and not study.get_trials(deepcopy=False, states=known):
        study.enqueue_trial(first)
    return study


def was_cut_off(trial: Any) -> bool:
    """Whether a kill, Ctrl-C or the time limit ended a trial; one that failed has a message."""
    return trial.state == type(trial.state).FAIL and "message" not in trial.user_attrs


def finished(study: Any) -> list[Any]:
    """Trials that have ended by themselves."""
    trials = study.get_trials(deepcopy=False)
    return [each for each in trials if each.state.is_finished() and not was_cut_off(each)]


class Searcher:
    """Runs trials until there are enough or the time is over.

    The options of trial i depend on the seed, i and the results before it, so that a search which
    was interrupted between two trials continues unchanged.
    """

    def __init__(self, study: Any, search: Search) -> None:
        self.study, self.search = study, search
        self.optuna = load_optuna()
        self.states = self.optuna.trial.TrialState

    def trials(self, total: int, deadline: float | None) -> Iterator[Any]:
        """Each trial when it has ended, up to ``total`` finished ones or ``time.monotonic()``.

        Raises:
            Exception: from the trial, if none has ever been trained.
            KeyboardInterrupt: as it is.
        """
        with quiet_lightning():
            while len(finished(self.study)) < total:
                if deadline is not None and time.monotonic() >= deadline:
                    return
                number = self._one(deadline)
                yield self.study.get_trials(deepcopy=False)[number]

    def _one(self, deadline: float | None) -> int:
        drawn = len(self.study.get_trials(deepcopy=False))
        self.study.sampler = self.optuna.samplers.TPESampler(
            seed=(self.search.seed * 1_000_003 + drawn) % 2**32, n_startup_trials=_DRAW_FIRST
        )
        trial = self.study.ask()
        options = [*self.search.options, *as_options(suggest(self.search.space, trial))]
        folder = self.search.output / "trials" / f"{trial.number:04d}"
        start = time.monotonic()

        def report(value: float, step: int) -> bool:
            trial.report(value, step)
            return bool(trial.should_prune())

        watch = TrialWatch(self.search.monitor, self.search.mode, report, deadline)
        try:
            ended = run_trial(options, folder, watch)
        except Exception as error:  # a trial may fail in any way; the search continues
            self._fail(trial, f"{type(error).__name__}: {error}")
            # if none was ever trained, the fault is in the config and the next would fail as well
            trained = (self.states.COMPLETE, self.states.PRUNED)
            if not self.study.get_trials(deepcopy=False, states=trained):
                raise
        except BaseException as error:
            # Lightning raises SystemExit on Ctrl-C
            self.study.tell(trial, state=self.states.FAIL)
            raise KeyboardInterrupt from error
        else:
            trial.set_user_attr("seconds", round(time.monotonic() - start, 2))
            self._tell(trial, ended)
        return int(trial.number)

    def _tell(self, trial: Any, ended: Ended) -> None:
        trial.set_user_attr("validations", ended.validations)
        if ended.state == "stopped":
            self.study.tell(trial, state=self.states.FAIL)
        elif ended.best is None:
            self._fail(trial, f"{self.search.monitor} was never a finite number")
        elif ended.state == "pruned":
            trial.set_user_attr("message", f"pruned at validation {ended.validations}")
            self.study.tell(trial, state=self.states.PRUNED)
        else:
            self.study.tell(trial, ended.best)

    def _fail(self, trial: Any, message: str) -> None:
        trial.set_user_attr("message", " ".join(message.split()))
        self.study.tell(trial, state=self.states.FAIL)
