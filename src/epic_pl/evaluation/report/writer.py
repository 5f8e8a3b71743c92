"""The callback that follows a test with a report, and the additional passes that it takes.

Shape legend: B batch, N samples, C classes.
"""

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from epic_pl.callbacks.plots import MAX_CLASSES, confusion_counts
from epic_pl.data import ImageTextDataModule
from epic_pl.errors import ConfigError
from epic_pl.evaluation.evaluator import Evaluator, finite, require_data
from epic_pl.evaluation.report.corruption import CORRUPTIONS, Corrupted
from epic_pl.evaluation.report.figures import draw_figures
from epic_pl.evaluation.report.scores import coverage_table, headline, label
from epic_pl.evaluation.report.tables import (
    absence_table,
    average_rows,
    calibration_table,
    class_table,
    confused_pairs,
    worst_mistakes,
)
from epic_pl.files import write_bytes, write_text
from epic_pl.inspection.html_page import jpeg, png, render, svg
from epic_pl.module import EPICModule
from epic_pl.module.checkpoint import weights_digest
from epic_pl.module.outputs import SplitOutputs, presence_masks
from epic_pl.types import Batch
from epic_pl.validate import check_writable

_MAX_COUNTED = 1000  # classes whose confusion matrix is written


class ReportWriter(Callback):
    """Writes metrics, calibration, weak spots and worst mistakes of a test on one device.

    ``report.html`` needs no other file; ``report.json`` holds all of its numbers.

    Args:
        folder: to write to; None writes nothing. ``epic-pl test --report DIR`` sets it.
        absence: test with one modality absent, too: two more passes over the split.
        robustness: test with corrupted texts and images, too: ten more passes, always through the
            encoders.
        mistakes: number of mistakes to show.

    Raises:
        ConfigError: before the test, if no report can be made or written.
    """

    def __init__(
        self,
        folder: str | None = None,
        absence: bool = True,
        robustness: bool = False,
        mistakes: int = 12,
    ) -> None:
        if mistakes < 0:
            raise ConfigError(f"report.mistakes is {mistakes}, but must be at least 0.")
        self.folder = None if folder is None else Path(folder)
        self.absence = absence
        self.robustness = robustness
        self.mistakes = mistakes

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check that a report can be made and written, before the test takes any time."""
        if self.folder is None or stage != "test":
            return
        require_data(trainer, pl_module, "report.folder")
        if trainer.world_size > 1:
            raise ConfigError(
                f"A report is made by one process, not {trainer.world_size}: set trainer.devices "
                "and trainer.num_nodes to 1."
            )
        check_writable("report.folder", self.folder, "report.html")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Run the additional passes and write the report."""
        if self.folder is None:
            return
        assert isinstance(pl_module, EPICModule)
        outputs, evaluator = pl_module.outputs.merged(), Evaluator.of(pl_module)
        if not len(outputs.logits):
            return
        data = require_data(trainer, pl_module, "report.folder")
        metrics = sorted(trainer.callback_metrics.items())
        mistakes, images = worst_mistakes(
            evaluator, outputs, self.mistakes, data.dataset("test"), data.image_preprocessing
        )
        classes = class_table(evaluator, outputs)
        content: dict[str, Any] = {
            "data": data.name,
            "checkpoint": None if trainer.ckpt_path is None else str(trainer.ckpt_path),
            "weights": weights_digest(pl_module),
            "text": data.preprocessing["text"],
            "task": evaluator.task,
            "samples": len(outputs.sample_id),
            "headline": headline(evaluator, outputs),
            "metrics": {k: finite(value) for k, value in metrics if k.startswith("test/")},
            "log_loss": finite(evaluator.losses(outputs.logits, outputs.labels).mean()),
            "coverage": coverage_table(evaluator, outputs),
            "classes": classes,
            "averages": average_rows(classes),
            "calibration": calibration_table(evaluator, outputs),
            "mistakes": mistakes,
        }
        passes = AdditionalPasses(trainer, pl_module, data, outputs)
        if self.absence:
            alone = passes.single_modality()
            content["absence"] = absence_table(evaluator, outputs, *alone)
        if self.robustness:
            passed = {name: passes.corrupted(name) for name in CORRUPTIONS}
            content["robustness"] = [
                {"condition": name, "samples": len(logits)}
                | evaluator.scores(logits, outputs.labels)
                for name, logits in {"unchanged": outputs.logits, **passed}.items()
            ]
        if evaluator.task == "multiclass":
            if len(evaluator.class_names) <= _MAX_COUNTED:
                content["confusion"] = confusion_counts(outputs).tolist()
            if len(evaluator.class_names) > MAX_CLASSES:
                content["confused"] = confused_pairs(evaluator, outputs)
        figures = draw_figures(content, evaluator.class_names)
        for name, figure in figures.items():
            write_bytes(self.folder / f"{name}.png", png(figure))
        numbers = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        write_text(self.folder / "report.json", numbers)
        page = render(
            "evaluation/templates/report.html",
            **content,
            figures={name: svg(figure) for name, figure in figures.items()},
            images=[None if image is None else jpeg(image) for image in images],
            label=label,
            never_missing=pl_module.model.head.never_missing,
        )
        write_text(self.folder / "report.html", page)
        rank_zero_info(f"Report written to {self.folder / 'report.html'}")


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
