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
from matplotlib.figure import Figure
from torch import Tensor

from epic_pl.callbacks.plots import MAX_CLASSES, confusion_counts, draw_confusion_matrix
from epic_pl.data import ImageTextDataModule
from epic_pl.errors import ConfigError
from epic_pl.evaluation.evaluator import Evaluator, finite, require_data
from epic_pl.evaluation.report.corruption import CORRUPTIONS, Corrupted
from epic_pl.evaluation.report.tables import (
    absence_table,
    calibration_table,
    class_table,
    worst_mistakes,
)
from epic_pl.files import write_bytes, write_text
from epic_pl.inspection.html_page import jpeg, png, render
from epic_pl.module import EPICModule
from epic_pl.module.outputs import SplitOutputs, presence_masks
from epic_pl.types import Batch
from epic_pl.validate import check_writable


class ReportWriter(Callback):
    """Writes metrics, calibration, weak spots and worst mistakes of a test on one device.

    ``report.html`` needs no other file; ``report.json`` holds all of its numbers.

    Args:
        folder: to write to; None writes nothing. ``epic-pl test --report DIR`` sets it.
        absence: test with one modality absent, too: two more passes over the split.
        robustness: test with corrupted texts and images, too: ten more passes, through the
            encoders even if features are stored.
        mistakes: number of mistakes to show.

    Raises:
        ConfigError: before the test, if no report can be made or written.
    """

    def __init__(
        self,
        folder: str | None = None,
        absence: bool = True,
        robustness: bool = True,
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
        content: dict[str, Any] = {
            "data": type(data).__name__,
            "checkpoint": None if trainer.ckpt_path is None else str(trainer.ckpt_path),
            "text": data.preprocessing["text"],
            "task": evaluator.task,
            "samples": len(outputs.sample_id),
            "metrics": {k: finite(value) for k, value in metrics if k.startswith("test/")},
            "classes": class_table(evaluator, outputs),
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
        figures = {"reliability": _draw_reliability(content["calibration"], evaluator.task)}
        if evaluator.task == "multiclass" and len(evaluator.class_names) <= MAX_CLASSES:
            counts = confusion_counts(outputs)
            content["confusion"] = counts.tolist()
            figures["confusion_matrix"] = draw_confusion_matrix(counts, evaluator.class_names)
        drawn = {name: png(figure) for name, figure in figures.items()}
        for name, image in drawn.items():
            write_bytes(self.folder / f"{name}.png", image)
        numbers = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        write_text(self.folder / "report.json", numbers)
        shown = [None if image is None else jpeg(image) for image in images]
        page = render("evaluation/templates/report.html", **content, figures=drawn, images=shown)
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


def _draw_reliability(calibration: dict[str, Any], task: str) -> Figure:
    """Share of right answers over their probability, before and after calibration."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    panels = (("_uncalibrated", "before calibration"), ("", "after calibration"))
    for axes, (suffix, title) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        width = 1 / len(calibration[f"bins{suffix}"])
        bins = [row for row in calibration[f"bins{suffix}"] if row["samples"]]
        centres = [(row["from"] + row["to"]) / 2 for row in bins]
        total = sum(row["samples"] for row in bins)
        axes.bar(centres, [row["accuracy"] for row in bins], width, edgecolor="white")
        axes.plot([0, 1], [0, 1], color="tab:red", linestyle="--", label="perfect calibration")
        shares = [row["samples"] / total for row in bins]
        axes.plot(centres, shares, marker="o", color="black", label="share of all answers")
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="predicted probability")
        axes.set_title(f"{title}: ECE {calibration[f'ece{suffix}']:.3f}")
        axes.legend(loc="upper left", fontsize=8)
    label = "share of labels that are true" if task == "multilabel" else "accuracy"
    figure.axes[0].set_ylabel(label)
    return figure
