"""The study of a search, whose trials are runs of ``fit`` without checkpoints."""

import contextlib
import gc
import math
import sqlite3
import sys
import traceback
from typing import Any

import lightning as L
import optuna
import torch
from filelock import FileLock, Timeout
from lightning.pytorch.callbacks import Callback, Checkpoint
from optuna.trial import FrozenTrial, TrialState

from epic_pl.experiments.options import ONE_DEVICE, use_stored_features
from epic_pl.experiments.tune.search import Search, suggest, values_of
from epic_pl.experiments.tune.summary import MESSAGE, draw_history, write_results
from epic_pl.module.callbacks.checkpoints import require_logged
from epic_pl.run.epic_cli import as_options, parse, quiet_lightning
from epic_pl.utils.errors import ConfigError, raised_as
from epic_pl.utils.files import write_bytes

_TRAINED = (TrialState.COMPLETE, TrialState.PRUNED)


def best_options(search: Search, trials: int) -> dict[str, Any] | None:
    """Run the remaining trials, write the results, and return the best options.

    The options of trial i depend on ``seed_everything``, i and earlier results. Interrupted trials
    do not count, so an interrupted search continues as if it had not been.

    Returns:
        None if no trial was finished.

    Raises:
        ConfigError: if another search is running in the folder, or has other options.
        Exception: error of a trial, if no trial has ever succeeded.
        KeyboardInterrupt: after Ctrl-C.
    """
    search.output.mkdir(parents=True, exist_ok=True)
    seed = int(search.parsed["seed_everything"] or 0)
    try:
        with FileLock(search.output / ".lock", timeout=0), quiet_lightning():
            study = open_study(search)
            while (done := sum(map(_counts, study.get_trials(deepcopy=False)))) < trials:
                study.sampler = optuna.samplers.TPESampler(seed=(seed * 1_000_003 + done) % 2**32)
                # if no trial has ever succeeded, the config is at fault
                catch = (Exception,) if study.get_trials(False, _TRAINED) else ()
                try:
                    study.optimize(lambda trial: run_trial(trial, search), 1, catch=catch)
                finally:
                    write_results(study, search)
            if (best := write_results(study, search)) is None:
                return None
            write_bytes(search.output / "search.png", draw_history(study, search))
    except Timeout:
        raise ConfigError(
            f"Another search is running in {search.output}: wait, or give another --output."
        ) from None
    line = f"Best: {best}. Train with it: epic-pl fit --config X --config {best}"
    print(f"{line}\nAll trials: {search.output}/trials.csv, search.png", file=sys.stderr)
    return study.best_params


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial ended by itself, with or without a failure; a killed one did not."""
    return trial.state in _TRAINED or MESSAGE in trial.user_attrs


def open_study(search: Search) -> optuna.Study:
    """Open the study in the folder of the search, new or continued.

    The first trial has the config's own options.

    Raises:
        ConfigError: if the folder has a study of other options.
    """
    epochs = search.parsed["trainer"]["max_epochs"] or 0
    file = search.output.resolve() / "study.db"
    direction = optuna.study.StudyDirection[f"{search.mode}imize".upper()]
    # a damaged file may cause any error
    with raised_as(ConfigError, str(file), "Give --output another folder."):
        # pass a connection, since brackets and % in a folder's name would be special in an address
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
        for trial in study.trials:  # refuse unknown options, which could name a class
            fits &= trial.distributions.items() <= search.space.items()
    if not fits:
        other = f"{search.output} has a search of other options, another space or table"
        raise ConfigError(f"{other}: give --output another folder, or remove that one.")
    study.set_user_attr("key", search.key)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        # this process has the folder's lock, so the process of that trial has ended
        study.tell(trial.number, state=TrialState.FAIL)
    first = values_of(search.space, search.parsed)
    if first and not study.get_trials(deepcopy=False, states=(*_TRAINED, TrialState.WAITING)):
        study.enqueue_trial(first)
    return study


def run_trial(trial: optuna.Trial, search: Search) -> float:
    """Train with the trial's options; all output goes to a folder of the trial.

    Returns:
        The metric of the best, or of the last, validation; NaN if it was never finite.

    Raises:
        TrialPruned: if the trial was ended early.
        Exception: error of ``fit``, which is also stored in the trial.
    """
    values = {name: suggest(trial, name, option) for name, option in search.space.items()}
    folder = search.output / "trials" / f"{trial.number:04d}"
    folder.mkdir(parents=True, exist_ok=True)
    own = ("--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={folder}")
    watch = TrialWatch(trial, search.monitor)
    with (
        (folder / "log.txt").open("a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        try:
            train([*search.options, *as_options(values), *ONE_DEVICE, *own], watch)
        except Exception as error:  # noted, and raised again
            traceback.print_exc(file=log)
            trial.set_user_attr(MESSAGE, " ".join(f"{type(error).__name__}: {error}".split()))
            raise
        finally:
            gc.collect()  # trainer and model refer to each other
            torch.cuda.empty_cache()
    counted = watch.values if search.keeps_best else watch.values[-1:]
    finite = [value for value in counted if math.isfinite(value)]
    if not finite:
        trial.set_user_attr(MESSAGE, f"{search.monitor} was never a finite number")
        return math.nan
    if watch.pruned:
        raise optuna.TrialPruned
    return max(finite) if search.mode == "max" else min(finite)


def train(options: list[str], watch: Callback) -> None:
    """Train with options of ``fit``, without checkpoints.

    Raises:
        EpicError: if ``fit`` fails.
    """
    cli = parse(["fit", *options])
    use_stored_features(cli.build())
    callbacks: list[Callback] = cli.trainer.callbacks  # type: ignore[attr-defined]  # Lightning's
    kept = [callback for callback in callbacks if not isinstance(callback, Checkpoint)]
    callbacks[:] = [watch, *kept]  # first, so that pruning comes before early stopping
    cli.execute()


class TrialWatch(Callback):
    """Reports a metric to Optuna after each validation, and ends a trial that is pruned.

    Attributes:
        values: metric of each validation.
        pruned: whether the trial was ended early.
    """

    def __init__(self, trial: optuna.Trial, monitor: str) -> None:
        self._trial, self._monitor = trial, monitor
        self.values: list[float] = []
        self.pruned = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the metric, and stop the trainer if the trial is pruned."""
        if trainer.sanity_checking:
            return
        require_logged(trainer, "The searched metric", self._monitor)
        self.values.append(float(trainer.callback_metrics[self._monitor]))
        self._trial.report(self.values[-1], len(self.values) - 1)
        if self._trial.should_prune():
            self.pruned = trainer.should_stop = True
            # else the trainer would go on until min_epochs
            trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None
