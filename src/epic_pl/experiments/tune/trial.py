"""One trial: ``fit`` without checkpoints, its validation metric reported epoch by epoch."""

import contextlib
import gc
import math
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint

from epic_pl.cli import run
from epic_pl.experiments.options import ONE_DEVICE, use_stored_features


class TrialWatch(Callback):
    """Reports a metric after each validation, and ends training if told to.

    ``pruned``, ``value`` and ``validations`` say how the trial ended.

    Args:
        monitor: the metric.
        mode: "max" or "min", whichever is better.
        report: takes value and number of the validation, from 0, and says whether to stop.
        keeps_best: whether the best validation counts, or the last.
    """

    def __init__(
        self,
        monitor: str,
        mode: str,
        report: Callable[[float, int], bool],
        keeps_best: bool = True,
    ) -> None:
        self.monitor = monitor
        self.better = max if mode == "max" else min
        self.report = report
        self.keeps_best = keeps_best
        self.value: float | None = None
        self.validations = 0
        self.pruned = False

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the metric; one that is not finite is never the best."""
        if trainer.sanity_checking:
            return
        value = float(trainer.callback_metrics[self.monitor])
        finite = value if math.isfinite(value) else None
        known = [each for each in (finite, self.value) if each is not None]
        self.value = self.better(known) if self.keeps_best and known else finite
        if self.report(value, self.validations):
            self.pruned = trainer.should_stop = True
            # a config's least number of epochs would keep the trainer going
            trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None
        self.validations += 1


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
        # trainer and model refer to each other, and the next trial needs their memory
        gc.collect()
        torch.cuda.empty_cache()


def _train(options: Sequence[str], watch: TrialWatch) -> None:
    cli = run(["fit", *options], "build")
    use_stored_features(cli)
    callbacks: list[Callback] = cli.trainer.callbacks  # type: ignore[attr-defined]  # Lightning's
    kept = [each for each in callbacks if not isinstance(each, Checkpoint)]
    callbacks[:] = [watch, *kept]  # first, so that pruning comes before early stopping
    cli.execute()
