"""More passes over a tested split, beside the trainer's own.

Shape legend: B batch, N samples, C classes.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader

from epic_pl.data import ImageTextDataModule
from epic_pl.data.loading.loader import init_worker
from epic_pl.errors import ConfigError
from epic_pl.evaluation.report.corruption import Corrupted
from epic_pl.evaluation.report.outcome import Outcome, presence_of
from epic_pl.module import EPICModule
from epic_pl.types import Batch

Presence = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def without_text(image_present: Tensor, text_present: Tensor) -> tuple[Tensor, Tensor]:
    """Masks ``(B,)`` of samples that keep their picture alone; those without one keep the text."""
    return image_present, text_present & ~image_present


def without_image(image_present: Tensor, text_present: Tensor) -> tuple[Tensor, Tensor]:
    """Masks ``(B,)`` of samples that keep their text alone; those without one keep the picture."""
    return image_present & ~text_present, text_present


class Passes:
    """Runs the module as the trainer's test does: device, precision, number of batches.

    Args:
        trainer: in its test loop.
        module: to run.
        data: whose test split is read.
        outcome: of the test itself.
    """

    def __init__(
        self,
        trainer: L.Trainer,
        module: EPICModule,
        data: ImageTextDataModule,
        outcome: Outcome,
    ) -> None:
        self.trainer, self.module, self.data, self.outcome = trainer, module, data, outcome

    def one_modality(self) -> tuple[Tensor, Tensor]:
        """Logits ``(N, C)`` from pictures alone and from texts alone, each batch read once.

        Reads what the test has read, stored features too.
        """
        loader: Any = self.trainer.test_dataloaders
        batches = int(self.trainer.num_test_batches[0])
        image_only, text_only = [], []
        for batch in self._shown(islice(loader, batches), batches, "one modality absent"):
            image_only.append(self._logits(batch, without_text))
            text_only.append(self._logits(batch, without_image))
        return torch.cat(image_only), torch.cat(text_only)

    def corrupted(self, corruption: str, seed: int) -> Tensor:
        """Logits ``(N, C)`` of corrupted samples, which are encoded whatever is stored.

        Raises:
            ConfigError: if the test read its split in another order.
        """
        data, rows = self.data, len(self.outcome.sample_id)
        loader: DataLoader[Any] = DataLoader(
            Corrupted(data.dataset("test"), rows, corruption, data.image_preprocessing, seed),
            batch_size=data.eval_batch_size_per_device,
            collate_fn=data.collator,
            num_workers=data.num_workers,
            pin_memory=data.pin_memory,
            worker_init_fn=init_worker,
            generator=torch.Generator(),  # of its own, as for the DataModule's loaders
        )
        ids: list[str] = []
        logits = []
        for batch in self._shown(loader, len(loader), corruption):
            ids += batch["sample_id"]
            logits.append(self._logits(batch))
        if ids != self.outcome.sample_id:
            raise ConfigError(
                f"The report reads the test split of {type(data).__name__} row by row, but its "
                "test_dataloader gave other rows or another order. Set report.robustness to false."
            )
        return torch.cat(logits)

    @torch.inference_mode()
    def _logits(self, batch: Batch, presence: Presence | None = None) -> Tensor:
        plugin, moved = self.trainer.precision_plugin, batch.copy()
        if presence is not None:
            moved["image_present"], moved["text_present"] = presence(*presence_of(batch))
        moved = self.trainer.strategy.batch_to_device(plugin.convert_input(moved))
        with plugin.forward_context():
            logits: Tensor = self.module(moved)
        return logits.float().cpu()

    def _shown(self, batches: Iterable[Any], total: int, title: str) -> Iterator[Any]:
        """The batches, counted in the trainer's progress bar; by one line where it has none."""
        bar = self.trainer.progress_bar_callback
        progress = bar.progress if isinstance(bar, RichProgressBar) else None
        if progress is None:
            rank_zero_info(f"Report: {title}, {total} batches")
            yield from batches
            return
        task = progress.add_task(f"[white]Report, {title}", total=total)
        for batch in batches:
            yield batch
            progress.update(task, advance=1)
            progress.refresh()
