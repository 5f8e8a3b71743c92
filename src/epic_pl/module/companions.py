"""Callbacks that every :class:`~epic_pl.module.EPICModule` brings to its Trainer."""

from functools import reduce
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelPruning, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from epic_pl.module.outputs import warn_of_absence
from epic_pl.utils.errors import ConfigError, TrainingError

# on an accelerator each check of the loss has to wait for the device
_CHECK_INTERVAL = 50


class LossLog(Callback):
    """Logs the loss of each training batch, and its terms every ``log_every_n_steps``.

    Each call of ``log`` takes time. An epoch's loss is the mean over the rows of all ranks.
    """

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Log the batch's ``loss_terms``; steps of a subclass may leave none."""
        terms, pl_module.loss_terms = pl_module.loss_terms, {}
        if not terms:
            return
        mean, size = pl_module.train_loss, len(batch["labels"])
        mean(reduce(torch.add, terms.values()), size)
        options = {"on_step": True, "batch_size": size}
        pl_module.log("train/loss", mean, prog_bar=True, on_epoch=True, **options)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning's
        if len(terms) > 1 and every and trainer.global_step % every == 0:
            pl_module.log_dict(
                {f"train/{name}_loss": one for name, one in terms.items()}, **options
            )


class TrainingGuard(Callback):
    """Refuses ``ModelPruning``, and ends a training whose loss is not finite.

    The loss of each batch is checked on a CPU, elsewhere that of every 50th, before the backward
    pass.
    """

    _batch: Any = None

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        """Raise ConfigError if there is a callback whose checkpoints would not load."""
        callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]  # Lightning's
        if any(isinstance(callback, ModelPruning) for callback in callbacks):
            raise ConfigError(
                "Leave out ModelPruning: it renames weights, so that no checkpoint would load."
            )

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep a batch whose loss will be checked."""
        due = pl_module.device.type == "cpu" or batch_idx % _CHECK_INTERVAL == 0
        self._batch = batch if due else None

    def on_before_backward(self, trainer: L.Trainer, pl_module: Any, loss: Tensor) -> None:
        """Raise TrainingError if the loss of that batch is not finite."""
        batch, self._batch = self._batch, None
        if batch is None or bool(loss.isfinite()):
            return
        ids = ", ".join(batch.get("sample_id", [])[:8]) or "unknown"
        rates = ", ".join(f"{group['lr']:.1e}" for group in trainer.optimizers[0].param_groups)
        raise TrainingError(
            f"The loss is {loss.item()} at step {trainer.global_step} (learning rates {rates}; "
            f"samples {ids}). Lower model.optim.lr, or set trainer.gradient_clip_val to 1.0, or "
            "trainer.precision to 32-true or bf16-mixed; the checkpoints written before this step "
            "are untouched, and ckpt_path resumes from them."
        )


class AbsenceWarning(Callback):
    """Warns once of a modality that a batch lacks, and that no training sample lacked."""

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: Any, batch: Any, *_: Any, **__: Any
    ) -> None:
        """Look at a batch, unless nothing is known before the first training sample."""
        if not trainer.sanity_checking:
            head, names = pl_module.model.head, pl_module.class_names
            warn_of_absence(batch, names, lambda: head.never_missing, self._warned)

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start


class AveragedDecisions(Callback):
    """Gives modules with averaged weights what validation has decided for the average.

    Temperature, thresholds and the choice of a candidate are fitted to the outputs of the average,
    which validation runs, before a checkpoint is written.
    """

    def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Copy the decisions of a validation in training."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Lightning's
            if isinstance(callback, WeightAveraging):
                # Lightning shows the averaged module nowhere else
                average: Any = callback._average_model
                average.module.postprocessor.load_state_dict(pl_module.postprocessor.state_dict())
                own = pl_module.model.choices, average.module.model.choices
                for choice, averaged in zip(*own, strict=True):
                    averaged.chosen.copy_(choice.chosen)
