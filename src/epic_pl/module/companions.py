"""Callbacks that every :class:`~epic_pl.module.EPICModule` brings to its Trainer."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn

from epic_pl.module.outputs import warn_of_absence
from epic_pl.module.parameters import parameter_table


class ParameterTable(Callback):
    """Prints the numbers of trained and frozen parameters when a training starts."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Print the table once."""
        if trainer.is_global_zero:
            parameter_table(pl_module.model)


class AbsenceWarning(Callback):
    """Warns once of each missing modality that every training sample had."""

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def on_validation_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at a batch, unless nothing is known before the first training sample."""
        if not trainer.sanity_checking:
            head, names = pl_module.model.head, pl_module.class_names
            warn_of_absence(batch, names, lambda: head.never_missing, self._warned)

    on_test_batch_start = on_predict_batch_start = on_validation_batch_start


class AveragedDecisions(Callback):
    """Gives modules with averaged weights what validation has decided for the average.

    Temperature, thresholds and the choice of experts are fitted to the outputs of the average,
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
                if (experts := pl_module.model.head.experts) is not None:
                    average.module.model.head.experts.used.copy_(experts.used)
