"""Accuracy of each subset of the rows, for data that names some."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from epic_pl.data import ImageTextDataModule


class SubsetAccuracy(Callback):
    """Logs ``val/accuracy_<subset>`` and ``test/accuracy_<subset>`` of multiclass tasks.

    See :attr:`epic_pl.data.ImageTextDataModule.subsets`. Where the data names none, nothing is
    logged.
    """

    def __init__(self) -> None:
        self._metrics: dict[str, MulticlassAccuracy] = {}
        self._data: Any = None

    def on_validation_epoch_start(self, *args: Any) -> None:
        """Start anew."""
        self._start(*args)

    def on_test_epoch_start(self, *args: Any) -> None:
        """Start anew."""
        self._start(*args)

    def _start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._metrics, self._data = {}, getattr(trainer, "datamodule", None)
        if isinstance(self._data, ImageTextDataModule) and self._data.task == "multiclass":
            self._metrics = {
                name: MulticlassAccuracy(self._data.num_classes, average="micro").to(module.device)
                for name in self._data.subsets
            }

    def on_validation_batch_end(self, *args: Any) -> None:
        """Take in a batch."""
        self._update(*args)

    def on_test_batch_end(self, *args: Any) -> None:
        """Take in a batch."""
        self._update(*args)

    def _update(self, trainer: Any, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        if not self._metrics:
            return
        logits: Tensor = outputs["logits"].detach()
        subsets = [self._data.subset_of(name) for name in batch["sample_id"]]
        for name, metric in self._metrics.items():
            rows = torch.tensor([each == name for each in subsets], device=logits.device)
            if rows.any():
                metric.update(logits[rows], batch["labels"][rows])

    def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Log the accuracies."""
        self._log(module, "val")

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Log the accuracies."""
        self._log(module, "test")

    def _log(self, module: L.LightningModule, stage: str) -> None:
        for name, metric in self._metrics.items():
            value = metric.compute()  # over all ranks
            module.log(f"{stage}/accuracy_{name}", value, rank_zero_only=False, sync_dist=True)
