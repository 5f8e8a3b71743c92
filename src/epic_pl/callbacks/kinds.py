"""Accuracy of each kind of row, for data that has several."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from epic_pl.data import ImageTextDataModule


class KindAccuracy(Callback):
    """Logs ``val/accuracy_<kind>`` and ``test/accuracy_<kind>``, where the data names kinds.

    See :attr:`epic_pl.data.ImageTextDataModule.kinds`. Where it names none, nothing is logged.
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
        self._data = getattr(trainer, "datamodule", None)
        if isinstance(self._data, ImageTextDataModule):
            self._metrics = {
                kind: MulticlassAccuracy(self._data.num_classes, average="micro").to(module.device)
                for kind in self._data.kinds
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
        kinds = [self._data.kind_of(name) for name in batch["sample_id"]]
        for kind, metric in self._metrics.items():
            rows = torch.tensor([each == kind for each in kinds], device=logits.device)
            if rows.any():
                metric.update(logits[rows], batch["labels"][rows])

    def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Log the accuracies."""
        self._log(module, "val")

    def on_test_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Log the accuracies."""
        self._log(module, "test")

    def _log(self, module: L.LightningModule, stage: str) -> None:
        # computing waits for the other ranks
        scores = {f"{stage}/accuracy_{kind}": m.compute() for kind, m in self._metrics.items()}
        module.log_dict(scores)
