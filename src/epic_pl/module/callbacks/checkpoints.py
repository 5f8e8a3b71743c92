"""Callbacks that save the latest state and, on request, the best epoch, and their files."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from epic_pl.data.loading import JOB_SIGNALS
from epic_pl.module.checkpoint_io import LAST, newest_checkpoint
from epic_pl.utils.errors import CheckpointError, ConfigError
from epic_pl.utils.validate import check_at_least, check_writable

KINDS = {"best": ("best.ckpt", LAST), "last": (LAST,)}
"""Files of a run's checkpoints; of several, the first that there is."""
# their places below a run's folder, the folder of a config's runs, or their own folder
_PLACES = ("checkpoints", "fit/version_*/checkpoints", ".")
_INTERVAL = 15 * 60  # seconds of training that a killed run loses at most, by default


def find_checkpoint(path: Path) -> Path:
    """Find the checkpoint at a path: a file, or the best or else the last one of the newest run.

    Raises:
        CheckpointError: if there is none.
    """
    if path.is_file():
        return path
    for place in _PLACES:
        if any(file for name in KINDS["best"] for file in path.glob(f"{place}/{name}")):
            return Path(newest_checkpoint(path, place, KINDS["best"]))
    way = "give runs/NAME or a checkpoint; embed, serve, app and export also take saved models"
    raise CheckpointError(f"There is no run or checkpoint at {path}: {way}.")


class BestCheckpoint(ModelCheckpoint):
    """Keeps the checkpoint of the best epoch; a resumed run also compares with earlier epochs.

    Without a ``monitor`` it keeps none, or with ``save_top_k`` -1 all.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Make the folder's path absolute, so that runs of two working folders stay apart."""
        super().setup(trainer, pl_module, stage)
        if self.monitor is None and self.save_top_k == 1:
            self.save_top_k = 0  # the last epoch, which LastCheckpoint saves
        if "://" not in str(self.dirpath):
            self.dirpath = os.path.realpath(str(self.dirpath))
            if stage == "fit" and not getattr(trainer, "fast_dev_run", False):
                check_writable("checkpoint.dirpath", Path(self.dirpath), "best.ckpt")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save after a validation within an epoch; a missing metric is a ConfigError."""
        try:
            super().on_validation_end(trainer, pl_module)
        except MisconfigurationException:
            require_logged(trainer, "checkpoint.monitor", self.monitor)
            raise

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save after an epoch; a missing metric is a ConfigError."""
        require_logged(trainer, "checkpoint.monitor", self.monitor)
        super().on_train_epoch_end(trainer, pl_module)

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the best score and path so far; the file is beside the checkpoint."""
        if state := checkpoint["callbacks"].pop(self.state_key, None):
            best, scores = Path(state["best_model_path"]), state["best_k_models"].items()
            beside = Path(str(trainer.ckpt_path)).parent.resolve() / best.name
            if own := next((f for f in (beside, best) if f.is_absolute() and f.is_file()), None):
                for key in ("best_model_path", "kth_best_model_path"):
                    state[key] = str(own.parent / Path(state[key]).name)
                state["best_k_models"] = {str(own.parent / Path(p).name): s for p, s in scores}
                # Lightning drops the best score if the folder has another path, as after a move
                checkpoint["callbacks"][self.state_key] = {**state, "dirpath": self.dirpath}


def require_logged(trainer: L.Trainer, option: str, monitor: str | None) -> None:
    """Raise ConfigError if a metric is missing although a validation of the training has ended."""
    logged = sorted(trainer.callback_metrics)
    if monitor not in (None, *logged) and any(name.startswith("val/") for name in logged):
        raise ConfigError(
            f"{option} is {monitor!r}, which nothing has logged by the end of a validation. Name "
            f"one of {', '.join(logged)}, or let a callback or module of yours log it."
        )


class LastCheckpoint(Checkpoint):
    """Saves the latest state as ``last.ckpt``.

    It saves after each epoch, after each validation within an epoch, every 15 minutes, and when the
    job is told to end: SIGTERM and SIGUSR1 save the state after the batch (and its validation) that
    is being worked on, SIGUSR1 also requeues a SLURM job, and the process exits with 128 plus the
    signal's number (143 for SIGTERM). Lightning's handlers exit with 0, and ModelCheckpoint with
    ``save_on_exception`` also saves the state within a step that failed, which cannot be resumed.

    A state is never saved between a batch and the validation that follows, or the end of the epoch:
    a run resumed from there would skip either.

    Args:
        dirpath: folder of the files; None is that of the run's other checkpoints.
        every_n_train_steps: number of optimiser steps after which a state is saved, too.

    Attributes:
        path: path of ``last.ckpt``; None before a run.

    Raises:
        ConfigError: if ``every_n_train_steps`` is not positive.
    """

    def __init__(self, dirpath: str | None = None, every_n_train_steps: int | None = None) -> None:
        self.dirpath, self.every_n_train_steps = dirpath, every_n_train_steps
        check_at_least(1, every_n_train_steps=every_n_train_steps)
        self.path: Path | None = None
        self._signal: int | None = None
        self._saved_at, self._saved_step = 0.0, -1

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the folder, and check before training that it can be written to."""
        self._signal = None
        others = (getattr(other, "dirpath", None) for other in trainer.checkpoint_callbacks)
        beside = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"
        folder = self.dirpath or next(filter(None, others), beside)
        self.path = Path(trainer.strategy.broadcast(str(folder))) / LAST
        if stage == "fit" and not getattr(trainer, "fast_dev_run", False):
            check_writable("last_checkpoint.dirpath", self.path.parent, LAST)

    def on_sanity_check_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace the signal handlers that Lightning has just installed by those of this class."""
        if threading.current_thread() is threading.main_thread():  # signals need the main thread
            for number in JOB_SIGNALS:
                signal.signal(number, self._on_signal)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace Lightning's signal handlers, also if there is no sanity check."""
        self.on_sanity_check_start(trainer, pl_module)
        # a run that was stopped early is finished, although its last epoch is incomplete
        reasons = {stopping.stopping_reason for stopping in trainer.early_stopping_callbacks}
        trainer.should_stop |= bool(reasons - {EarlyStoppingReason.NOT_STOPPED})
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # only note the signal: the current step must finish before its state is saved
        self._signal = number

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Save if a step count or the clock says so."""
        loop: Any = trainer.fit_loop  # only private attributes say what comes after the batch
        validates = loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
        if not validates and not loop.epoch_loop.batch_progress.is_last_batch:
            steps = self.every_n_train_steps
            step = trainer.global_step
            due = steps is not None and step % steps == 0 and step != self._saved_step
            self._save(trainer, due or time.monotonic() - self._saved_at > _INTERVAL)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save after a validation within an epoch."""
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress
        fits = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if fits and not progress.is_last_batch:
            self._save(trainer, True)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save after an epoch."""
        self._save(trainer, True)

    def _save(self, trainer: L.Trainer, due: bool) -> None:
        """Save if it is due on any rank, or any rank was told to end."""
        path = self.path
        assert path is not None
        if getattr(trainer, "fast_dev_run", False):
            return
        decide = trainer.strategy.reduce_boolean_decision
        ends = self._signal is not None
        if not decide(due or ends, all=False):  # one exchange between ranks per step
            return
        ends = decide(ends, all=False)
        trainer.save_checkpoint(path, weights_only=False)
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step
        if ends:
            number = signal.Signals(self._signal or signal.SIGTERM)
            rank_zero_info(f"Saved {path} after {number.name}; --ckpt_path last resumes from it.")
            if number.name == "SIGUSR1" and trainer.is_global_zero:
                _requeue()
            raise SystemExit(128 + number)


def _requeue() -> None:
    """Requeue the SLURM job, if this process runs in one."""
    job = os.environ.get("SLURM_JOB_ID")
    if array := os.environ.get("SLURM_ARRAY_JOB_ID"):
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if job is None:
        return
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        rank_zero_warn(f"SLURM job {job} could not be requeued: {error}. Submit it again.")
