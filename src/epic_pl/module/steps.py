"""One step for training, validation and test, what it measures, and prediction.

Shape legend: B batch, C classes.
"""

from collections.abc import Sequence
from typing import Literal

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from epic_pl.errors import DataError, TrainingError
from epic_pl.module.compilation import is_compiled, mark_lengths
from epic_pl.module.losses import Objective
from epic_pl.module.metrics import F1Thresholds, at_thresholds
from epic_pl.module.postprocess import ValidationFit, move_thresholds
from epic_pl.nn.base import DualEncoder
from epic_pl.types import Batch, Prediction, Task
from epic_pl.validate import check_batch

Stage = Literal["train", "val", "test"]
# on an accelerator every look at the loss waits for the device, so look now and then
_FINITE_CHECK_INTERVAL = 50


class Steps(L.LightningModule):
    """The loops' part of :class:`epic_pl.module.EPICModule`, which gives it all it works with."""

    model: DualEncoder
    task: Task
    num_classes: int
    objective: Objective
    metrics: nn.ModuleDict
    tuning: F1Thresholds
    thresholds: Tensor | None
    """Multilabel: probability from which each label is assigned, ``(C,)``; tuned on validation."""
    pooled_loss: float
    """Weight of the mean loss of the partial logits, beside 1 of all."""
    calibrate: bool
    validated: ValidationFit
    calibration_temperature: Tensor
    """Scalar that logits are divided by before they become probabilities; from validation."""
    calibration_errors: nn.ModuleDict

    def __init__(self) -> None:
        super().__init__()
        self._checked: set[str] = set()

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``(B, C)``; not in training mode, the interaction in them is weighed."""
        if is_compiled(self.model):
            mark_lengths(batch)
        logits: Tensor = self.model(batch)
        return logits

    def _step(self, batch: Batch, stage: Stage) -> tuple[Tensor, Tensor]:
        """The one step of training, validation and test: forward, loss, metrics, log."""
        self._check_batch(batch, stage)
        logits, partial = self._logits(batch, stage)
        labels = batch["labels"]
        loss: Tensor = self.objective(logits, labels)
        self._measure(stage, logits.detach(), labels.int())
        if stage == "val":
            self.validated.update(logits, labels.int(), next(iter(partial), None))
        size = len(labels)
        self.log(
            f"{stage}/loss",
            loss,
            prog_bar=stage != "test",
            on_step=stage == "train",
            on_epoch=True,
            batch_size=size,
            sync_dist=stage != "train",
        )
        if stage == "train" and partial:
            # means, so that the rate means the same with it and without
            own = sum(self.objective(part, labels) for part in partial) / len(partial)
            loss = (loss + self.pooled_loss * own) / (1 + self.pooled_loss)
        return loss, logits

    def _logits(self, batch: Batch, stage: Stage) -> tuple[Tensor, Sequence[Tensor]]:
        """Logits ``(B, C)`` and, if this stage has a use for them, the partial ones."""
        wanted = {
            "train": self.pooled_loss > 0,
            "val": self.model.interaction_weight is not None,
            "test": False,
        }
        self.model.keeps_partial_logits = wanted[stage]
        try:
            logits = self(batch)
            return logits, self.model.partial_logits
        finally:
            self.model.keeps_partial_logits, self.model.partial_logits = False, ()

    def _measure(self, stage: Stage, logits: Tensor, labels: Tensor) -> None:
        uncalibrated = self.objective.probabilities(logits)
        probabilities = self.probabilities(logits) if stage == "test" else uncalibrated
        metrics = self._metrics(stage)
        metrics.update(probabilities, labels)
        self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=len(labels))
        if stage != "test":
            return
        for name, given in (("ece", probabilities), ("ece_uncalibrated", uncalibrated)):
            error = self.calibration_errors[name]
            assert isinstance(error, Metric)
            error.update(given, labels)
            self.log(f"test/{name}", error, on_step=False, on_epoch=True, batch_size=len(labels))
        thresholds = self.label_thresholds()
        if thresholds is not None:
            tuned = self._metrics("tuned")
            tuned.update(at_thresholds(probabilities, thresholds), labels)
            self.log_dict(tuned, on_step=False, on_epoch=True, batch_size=len(labels))

    def probabilities(self, logits: Tensor) -> Tensor:
        """``(B, C)`` float32 of logits ``(B, C)``: calibrated, unless ``calibrate`` is False."""
        if self.calibrate:
            logits = logits.float() / self.calibration_temperature
        return self.objective.probabilities(logits)

    def label_thresholds(self) -> Tensor | None:
        """Multilabel: ``(C,)``, which :meth:`probabilities` are compared with; else None."""
        if self.thresholds is None or self.calibrate:
            return self.thresholds
        # 1 where calibration was off in training too
        return move_thresholds(self.thresholds, self.calibration_temperature)

    def _metrics(self, name: str) -> MetricCollection:
        metrics = self.metrics[f"{name}_metrics"]
        assert isinstance(metrics, MetricCollection)
        return metrics

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one training batch.

        Raises:
            TrainingError: if the loss is not finite.
        """
        loss, _ = self._step(batch, "train")
        if self.device.type == "cpu" or batch_idx % _FINITE_CHECK_INTERVAL == 0:
            self._check_finite(loss, batch)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and metrics of one validation batch."""
        self._step(batch, "val")

    def on_validation_epoch_start(self) -> None:
        """Forget what a validation that was cut short has left."""
        self.validated.reset()
        if self.thresholds is not None:
            self.tuning.reset()

    def on_validation_epoch_end(self) -> None:
        """Fit weight, temperature and thresholds, before this epoch's checkpoint is written."""
        if not self.trainer.sanity_checking:
            self._fit_to_validation()
        self.validated.reset()

    def _fit_to_validation(self) -> None:
        weight, temperature = self.validated.compute()
        self.calibration_temperature.fill_(temperature)
        if self.model.interaction_weight is not None:
            weight = self.model.interaction_weight.fill_(weight).float()
            self.log("val/interaction_weight", weight, sync_dist=True)
        if self.thresholds is None:
            return
        # of the probabilities that will be given out, so only now that all else is known
        for logits, labels in self.validated.weighed(weight):
            self.tuning.update(self.probabilities(logits), labels)
        self.thresholds.copy_(self.tuning.compute())
        self.tuning.reset()

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Loss and metrics of one test batch; hands ``logits (B, C)`` to the callbacks."""
        loss, logits = self._step(batch, "test")
        return {"loss": loss, "logits": logits}

    def predict_step(self, batch: Batch, batch_idx: int) -> Prediction:
        """Ids and probabilities ``(B, C)`` of one batch, on the CPU.

        Raises:
            DataError: if the batch has no ``sample_id``.
        """
        if "sample_id" not in batch:
            raise DataError(
                "Predictions are told apart by sample_id, which this batch lacks: let the loader "
                "put a list of one string a sample under that key."
            )
        probabilities = self.probabilities(self(batch)).cpu()
        return Prediction(sample_id=list(batch["sample_id"]), probabilities=probabilities)

    def _check_batch(self, batch: Batch, stage: Stage) -> None:
        """Look at the first batch of each stage, before anything is trained on it."""
        if stage in self._checked:
            return
        self._checked.add(stage)
        check_batch(batch, self.task, self.num_classes)

    def _check_finite(self, loss: Tensor, batch: Batch) -> None:
        if bool(torch.isfinite(loss)):
            return
        ids = ", ".join(batch.get("sample_id", [])[:8]) or "unknown"
        groups = self.trainer.optimizers[0].param_groups
        rates = ", ".join(f"{group['lr']:.1e}" for group in groups)
        raise TrainingError(
            f"The loss is {loss.item()} at step {self.global_step} (learning rates {rates}; "
            f"samples {ids}). Lower model.lr and model.prompt_lr, or set trainer.gradient_clip_val "
            "to 1.0, or trainer.precision to 32-true or bf16-mixed; the checkpoints written before "
            "this step are untouched, and ckpt_path resumes from them."
        )
