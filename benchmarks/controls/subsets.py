"""Accuracy of each subset of the rows, for data that defines subsets."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from epic_pl.data import ImageTextDataModule
from epic_pl.module import EPICModule


class SubsetAccuracy(Callback):
    """Logs ``val/accuracy_<subset>`` and ``test/accuracy_<subset>`` of multiclass tasks.

    A DataModule names them in ``subsets``, and ``subset_of`` gives that of a row; without any,
    nothing is logged.
    """

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the accuracies over all ranks; NaN for a subset without rows."""
        data: Any = ImageTextDataModule.of(trainer)
        if not getattr(data, "subsets", ()) or data.task != "multiclass":
            return
        assert isinstance(pl_module, EPICModule)
        outputs = pl_module.outputs.merged()
        subsets = [data.subset_of(sample) for sample in outputs.sample_id]
        stage, logits = ("test" if trainer.testing else "val"), outputs.logits
        if trainer.testing:  # as the accuracy of all rows
            logits = pl_module.postprocessor.on_cpu().calibrated(logits)
        for name in data.subsets:
            rows = torch.tensor([subset == name for subset in subsets], dtype=torch.bool)
            hits = logits[rows].argmax(dim=1) == outputs.labels[rows]
            pl_module.log(f"{stage}/accuracy_{name}", hits.float().mean(), sync_dist=True)

    on_test_epoch_end = on_validation_epoch_end
