"""Additional passes over a tested split.

Shape legend: B batch, N samples, C classes.
"""

from dataclasses import dataclass
from itertools import islice
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from epic_pl.data import ImageTextDataModule
from epic_pl.errors import ConfigError
from epic_pl.evaluation.report.corruption import Corrupted
from epic_pl.module import EPICModule
from epic_pl.module.outputs import SplitOutputs, presence_masks
from epic_pl.types import Batch


@dataclass(frozen=True)
class AdditionalPasses:
    """Passes with the device, precision and number of batches of a trainer's finished test."""

    trainer: L.Trainer
    module: EPICModule
    data: ImageTextDataModule
    outputs: SplitOutputs

    def single_modality(self) -> tuple[Tensor, Tensor]:
        """Logits ``(N, C)`` of images alone and of texts alone; each batch is read once.

        A sample with one modality keeps it in both. Stored features are read where the test did.
        """
        loader: Any = self.trainer.test_dataloaders
        rank_zero_info("Report: each modality alone")
        image_only, text_only = [], []
        for batch in islice(loader, int(self.trainer.num_test_batches[0])):
            image, text = presence_masks(batch)
            image_only.append(self._logits(batch, image, text & ~image))
            text_only.append(self._logits(batch, image & ~text, text))
        return torch.cat(image_only), torch.cat(text_only)

    def corrupted(self, corruption: str) -> Tensor:
        """Logits ``(N, C)`` of corrupted samples, which pass through the encoders.

        Raises:
            ConfigError: if the test read its split in another order.
        """
        data, rows = self.data, len(self.outputs.sample_id)
        changed = Corrupted(data.dataset("test"), rows, corruption, data.image_preprocessing)
        rank_zero_info(f"Report: {corruption}")
        ids, logits = [], []
        for batch in data.loader(changed, collate_fn=data.collator):
            ids += batch["sample_id"]
            logits.append(self._logits(batch, *presence_masks(batch)))
        if ids != self.outputs.sample_id:
            raise ConfigError(
                "The test loader gives other rows than the test split, or in another order: set "
                "report.robustness to false."
            )
        return torch.cat(logits)

    @torch.inference_mode()
    def _logits(self, batch: Batch, image_present: Tensor, text_present: Tensor) -> Tensor:
        given = batch.copy()
        given["image_present"], given["text_present"] = image_present, text_present
        plugin = self.trainer.precision_plugin
        given = self.trainer.strategy.batch_to_device(plugin.convert_input(given))
        with plugin.forward_context():
            logits: Tensor = self.module(given).logits
        return logits.float().cpu()
