"""One trial: ``fit`` without checkpoints, its validation metric reported epoch by epoch."""

import contextlib
import math
import traceback
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import optuna
from lightning.pytorch.callbacks import Callback, Checkpoint

from epic_pl.cli.epic_cli import parse
from epic_pl.experiments.options import ONE_DEVICE, free_memory, use_stored_features
from epic_pl.experiments.tune.search import Search


class TrialWatch(Callback):
    """Reports the metric of a search after each validation, and ends a trial that is pruned.

    Attributes:
        value: the metric of the best validation, or of the last; None if it was never finite.
        validations: their number.
        pruned: whether the trial was ended early.
    """

    def __init__(self, search: Search, trial: optuna.Trial) -> None:
        self._search, self._trial = search, trial
        self.value: float | None = None
        self.validations = 0
        self.pruned = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the metric; one that is not finite is never the best."""
        if trainer.sanity_checking:
            return
        value = float(trainer.callback_metrics[self._search.monitor])
        known = [value] if math.isfinite(value) else []
        if self._search.keeps_best and self.value is not None:
            known.append(self.value)
        better = max if self._search.mode == "max" else min
        self.value = better(known, default=None)
        self._trial.report(value, self.validations)
        self.validations += 1
        if self._trial.should_prune():
            self.pruned = trainer.should_stop = True
            # a config's least number of epochs would keep the trainer going
            trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None


def run_trial(options: Sequence[str], folder: Path, watch: TrialWatch) -> None:
    """Train with ``options`` of ``fit``, with all output in ``folder``.

    Raises:
        EpicError: from ``fit``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = ("--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={folder}")
    try:
        with (
            (folder / "log.txt").open("a", encoding="utf-8") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):
            try:
                _train([*options, *ONE_DEVICE, *own], watch)
            except Exception:
                traceback.print_exc(file=log)
                raise
    finally:
        free_memory()  # the next trial needs it


def _train(options: Sequence[str], watch: TrialWatch) -> None:
    cli = parse(["fit", *options])
    cli.build()
    use_stored_features(cli)
    callbacks: list[Callback] = cli.trainer.callbacks  # type: ignore[attr-defined]  # Lightning's
    kept = [callback for callback in callbacks if not isinstance(callback, Checkpoint)]
    callbacks[:] = [watch, *kept]  # first, so that pruning comes before early stopping
    cli.execute()
