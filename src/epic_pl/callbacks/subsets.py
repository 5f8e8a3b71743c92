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

    See :attr:`~epic_pl.data.datamodule.ImageTextDataModule.subsets`. Where the data names none,
    nothing is logged.
    """

    def __init__(self) -> None:
        self._metrics: dict[str, MulticlassAccuracy] = {}
        self._data: Any = None

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start anew."""
        self._metrics, self._data = {}, getattr(trainer, "datamodule", None)
        if isinstance(self._data, ImageTextDataModule) and self._data.task == "multiclass":
            classes, device = self._data.num_classes, pl_module.device
            self._metrics = {
                name: MulticlassAccuracy(classes, average="micro").to(device)
                for name in self._data.subsets
            }

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in a batch."""
        if not self._metrics:
            return
        logits: Tensor = outputs["logits"].detach()
        subsets = [self._data.subset_of(name) for name in batch["sample_id"]]
        for name, metric in self._metrics.items():
            rows = torch.tensor([each == name for each in subsets], device=logits.device)
            if rows.any():
                metric.update(logits[rows], batch["labels"][rows])

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the accuracies, over all ranks."""
        stage = "test" if trainer.testing else "val"
        for name, metric in self._metrics.items():
            pl_module.log(f"{stage}/accuracy_{name}", metric.compute(), sync_dist=True)

    on_test_epoch_start = on_validation_epoch_start
    on_test_batch_end = on_validation_batch_end
    on_test_epoch_end = on_validation_epoch_end
