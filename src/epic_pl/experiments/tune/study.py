"""The search: asks Optuna for trials, runs them, and goes on where an earlier search stopped."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epic_pl.arguments import as_options
from epic_pl.cli import quiet_lightning
from epic_pl.errors import ConfigError
from epic_pl.experiments.compare.plan import data_files, digest
from epic_pl.experiments.tune.space import Space, suggest
from epic_pl.experiments.tune.trial_run import Ended, TrialWatch, run_trial

# trials before the pruner has medians to go by, and draws before the sampler has a model
_PRUNE_AFTER = 5
_DRAW_FIRST = 10
_CUT_OFF = "cut_off"


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
    """What a study is of.

    ``options`` of ``fit`` for all trials and what it makes of them, ``parsed``; the ``monitor`` of
    validation and its ``mode``, "max" or "min"; the ``seed`` of the search, and its folder.
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
        """Hash of all that makes values of two trials comparable."""
        known = {name: value for name, value in self.parsed.items() if name != "config"}
        space = {name: repr(each) for name, each in self.space.items()}
        return digest([known, space, self.seed, data_files(self.parsed)])


def open_study(search: Search, first: dict[str, Any]) -> Any:
    """The study in the folder, begun or as an earlier search left it.

    Args:
        search: what it is of.
        first: options of the first trial, the config as it stands.

    Raises:
        ConfigError: if the folder has a study of something else.
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
        # the folder's lock is ours, so whoever ran it is gone
        _cut(study, trial.number, "killed")
    known = (states.COMPLETE, states.PRUNED, states.WAITING)
    if first and not study.get_trials(deepcopy=False, states=known):
        study.enqueue_trial(first)
    return study


def cut_off(study: Any) -> dict[str, str]:
    """Why trials, by number, are not over: a kill, Ctrl-C or the deadline."""
    return dict(study.user_attrs.get(_CUT_OFF, {}))


def _cut(study: Any, number: int, why: str) -> None:
    study.set_user_attr(_CUT_OFF, cut_off(study) | {str(number): why})
    study.tell(number, state=load_optuna().trial.TrialState.FAIL)


def finished(study: Any) -> list[Any]:
    """Trials that are over, those that were cut off not among them."""
    trials, cut = study.get_trials(deepcopy=False), cut_off(study)
    return [each for each in trials if each.state.is_finished() and str(each.number) not in cut]


class Searcher:
    """Runs trials until there are enough or time is up.

    What trial number i tries depends on the seed, i and the results before it, so that a search
    which was interrupted between two trials draws what it would have drawn.

    Args:
        study: from :func:`open_study`.
        search: what it is of.
        after: is given the frozen trial when one has ended.
    """

    def __init__(self, study: Any, search: Search, after: Callable[[Any], None]) -> None:
        self.study, self.search, self.after = study, search, after
        self.optuna = load_optuna()

    def run(self, trials: int, deadline: float | None) -> None:
        """Go on to ``trials`` finished ones in all, or to ``deadline`` of ``time.monotonic``.

        Raises:
            Exception: what a trial raised, if none has ever come to an end.
            KeyboardInterrupt: as it is.
        """
        with quiet_lightning():
            while len(finished(self.study)) < trials:
                if deadline is not None and time.monotonic() >= deadline:
                    return
                self._one(deadline)

    def _one(self, deadline: float | None) -> None:
        number = len(self.study.get_trials(deepcopy=False))
        self.study.sampler = self.optuna.samplers.TPESampler(
            seed=(self.search.seed * 1_000_003 + number) % 2**32, n_startup_trials=_DRAW_FIRST
        )
        trial = self.study.ask()
        values = suggest(self.search.space, trial)
        start = time.monotonic()

        def report(value: float, step: int) -> bool:
            trial.report(value, step)
            return bool(trial.should_prune())

        watch = TrialWatch(self.search.monitor, self.search.mode, report, deadline)
        folder = self.search.output / "trials" / f"{trial.number:04d}"
        try:
            ended = run_trial([*self.search.options, *as_options(values)], folder, watch)
        except Exception as error:  # a trial may fail in any way; the search goes on
            self._failed(trial, f"{type(error).__name__}: {error}")
            # with nothing ever run, the config is at fault and every trial would say the same
            if not self._any_ran():
                raise
        except BaseException as error:
            # Lightning leaves by SystemExit on Ctrl-C
            _cut(self.study, trial.number, "interrupted")
            raise KeyboardInterrupt from error
        else:
            trial.set_user_attr("seconds", round(time.monotonic() - start, 2))
            self._tell(trial, ended)
        self.after(self.study.get_trials(deepcopy=False)[trial.number])

    def _any_ran(self) -> bool:
        states = self.optuna.trial.TrialState
        ran = (states.COMPLETE, states.PRUNED)
        return bool(self.study.get_trials(deepcopy=False, states=ran))

    def _tell(self, trial: Any, ended: Ended) -> None:
        trial.set_user_attr("validations", ended.validations)
        if ended.state == "stopped":
            _cut(self.study, trial.number, "time was up")
        elif ended.best is None:
            self._failed(trial, f"{self.search.monitor} was never a finite number")
        elif ended.state == "pruned":
            trial.set_user_attr("message", f"pruned at validation {ended.validations}")
            self.study.tell(trial, state=self.optuna.trial.TrialState.PRUNED)
        else:
            self.study.tell(trial, ended.best)

    def _failed(self, trial: Any, message: str) -> None:
        trial.set_user_attr("message", " ".join(message.split()))
        self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)
