"""The progress bar of the command line."""

import math
import time
from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.trainer.states import TrainerFn

from epic_pl.module.metrics import metric_text

_HIDDEN = ("v_num", "train/loss_step", "train/loss_epoch", "val/loss")


class ProgressBar(RichProgressBar):
    """Lightning's bar with training loss, monitored metric and the time left on one line.

    The loss is the last epoch's mean, in the first epoch the batch's. As the first of the
    callbacks, the bar ends before others print their results.
    """

    _clock: tuple[float, int, float] = (0.0, 0, 0.0)  # start of the training, first and last step
    _score: Mapping[str, str] = MappingProxyType({})  # the monitored metric

    def configure_columns(self, trainer: L.Trainer) -> list[Any]:
        """A short bar, alone with its counts in training, where metrics need the room."""
        columns = super().configure_columns(trainer)
        columns[1].bar_width = 8
        return columns[: 3 if trainer.state.fn == TrainerFn.FITTING else None]

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        steps = trainer.global_step, trainer.estimated_stepping_batches
        self._clock = time.monotonic(), *steps

    def get_metrics(self, trainer: L.Trainer, model: Any) -> dict[str, Any]:
        """The metrics that follow the bar, by name."""
        given: dict[str, Any] = super().get_metrics(trainer, model)
        loss = given.get("train/loss_epoch", given.get("train/loss_step"))
        shown = ({} if loss is None else {"train/loss": loss}) | dict(self._score)
        shown |= {name: value for name, value in given.items() if name not in _HIDDEN}
        (start, first, last), now = self._clock, trainer.global_step
        if first < now < last < math.inf:
            left = (time.monotonic() - start) / (now - first) * (last - now)
            shown["left"] = str(timedelta(seconds=int(left)))
        return shown

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Take the monitored metric of the validation."""
        stoppers = *trainer.checkpoint_callbacks, *trainer.early_stopping_callbacks
        logged = {} if trainer.sanity_checking else trainer.callback_metrics
        names = [name for each in stoppers if (name := getattr(each, "monitor", None)) in logged]
        self._score = {name: metric_text(name, float(logged[name])) for name in names[:1]}
        super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Show the epoch's metrics, and end after the last epoch."""
        super().on_train_epoch_end(trainer, pl_module)
        if trainer.current_epoch + 1 == trainer.max_epochs:
            self.teardown(trainer, pl_module, "fit")

    def on_predict_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """End before the predictions are written."""
        super().on_predict_end(trainer, pl_module)
        self.teardown(trainer, pl_module, "predict")

    def teardown(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Stop the display, once."""
        super().teardown(trainer, pl_module, stage)
        self.progress = None
