"""The callback that writes a report after a test.

Shape legend: B batch, N samples, C classes.
"""

import json
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, get_args

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from epic_pl.data import ImageTextDataModule
from epic_pl.data.tables.formats import write_csv
from epic_pl.module.checkpoint import weights_digest
from epic_pl.module.epic_module import EPICModule, require_data
from epic_pl.module.evaluator import Evaluator, finite
from epic_pl.module.outputs import presence_masks
from epic_pl.module.postprocess import ENOUGH_ROWS
from epic_pl.report.figures import MAX_CLASSES, confusion_counts, draw_figures
from epic_pl.report.importance import column_report
from epic_pl.report.passes import tested_batches
from epic_pl.report.scores import coverage_table, headline, label, ranking_interval
from epic_pl.report.tables import (
    absence_table,
    average_rows,
    calibration_table,
    class_table,
    confused_pairs,
    every_row,
    worst_mistakes,
)
from epic_pl.utils.errors import ConfigError, DataError
from epic_pl.utils.files import write_bytes, write_text
from epic_pl.utils.html_page import jpeg, png, render, svg
from epic_pl.utils.types import Modality
from epic_pl.utils.validate import check_writable

_MAX_COUNTED = 1000  # number of classes up to which the confusion matrix is written
LEARNED_SHARE = 0.05
"""Least share of training samples without a modality from which a model learns to do without it.

It is that of ``modality_dropout`` 0.1. One sample of hundreds trains the embedding a little, but
scores without the modality are then far below those of a model that is trained without it.
"""


class ReportWriter(Callback):
    """Writes metrics, calibration, weak spots and worst mistakes of a test on one device.

    ``report.html`` needs no other file; ``report.json`` has all its numbers, and
    ``predictions.csv`` all rows with their answers, the wrong ones first.

    Args:
        folder: folder to write to; None writes nothing. ``epic-pl test --report DIR`` sets it.
        absence: whether to test each modality alone, too, in two more passes over the split.
        mistakes: number of mistakes to show.

    Raises:
        ConfigError: before the test, if no report can be made or written.
    """

    def __init__(self, folder: str | None = None, absence: bool = True, mistakes: int = 12) -> None:
        if mistakes < 0:
            raise ConfigError(f"report.mistakes is {mistakes}, but must be at least 0.")
        self.folder = None if folder is None else Path(folder)
        self.absence = absence
        self.mistakes = mistakes

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check that a report can be made and written before the test starts."""
        if self.folder is None or stage != "test":
            return
        require_data(trainer, pl_module, "report.folder")
        if trainer.world_size > 1:
            given = f"by one process, not {trainer.world_size}"
            raise ConfigError(f"A report is made {given}: set trainer.devices and num_nodes to 1.")
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
            "ranking": ranking_interval(evaluator, outputs),
            "metrics": {k: finite(value) for k, value in metrics if k.startswith("test/")},
            "log_loss": finite(evaluator.losses(outputs.logits, outputs.labels).mean()),
            "coverage": coverage_table(evaluator, outputs),
            "classes": classes,
            "averages": average_rows(classes),
            "calibration": {"rows": pl_module.calibration_rows}
            | calibration_table(evaluator, outputs),
            "mistakes": mistakes,
        }
        unlearned = rarely_missing(pl_module, data)
        if data.column_preprocessing.names:
            content["columns"] = column_report(trainer, pl_module, data, evaluator, outputs)
        if self.absence:
            alone = _single_modality(trainer, pl_module)
            content["absence"] = absence_table(evaluator, outputs, *alone, "columns" in content)
            both = outputs.image_present & outputs.text_present
            if both.any() and not unlearned and "columns" not in content:
                labels = outputs.labels[both]
                content["alone"] = {
                    name: headline(evaluator, outputs._replace(logits=own[both], labels=labels))
                    for name, own in zip(("image", "text"), alone, strict=True)
                }
        if evaluator.task == "multiclass":
            if len(evaluator.class_names) <= _MAX_COUNTED:
                content["confusion"] = confusion_counts(evaluator, outputs).tolist()
            if len(evaluator.class_names) > MAX_CLASSES:
                content["confused"] = confused_pairs(evaluator, outputs)
        figures = draw_figures(content, evaluator.class_names)
        for name, figure in figures.items():
            write_bytes(self.folder / f"{name}.png", png(figure))
        numbers = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        write_text(self.folder / "report.json", numbers)
        rows = every_row(evaluator, outputs, data.dataset("test"))
        write_csv(rows, self.folder / "predictions.csv", None, mark=True)
        page = render(
            "report/templates/report.html",
            **content,
            figures={name: svg(figure) for name, figure in figures.items()},
            images=[None if image is None else jpeg(image) for image in images],
            label=partial(label, multilabel=evaluator.task == "multilabel"),
            enough_rows=ENOUGH_ROWS,
            unlearned=unlearned,
        )
        write_text(self.folder / "report.html", page)
        rank_zero_info(f"Report written to {self.folder / 'report.html'}")


def rarely_missing(module: EPICModule, data: ImageTextDataModule) -> list[str]:
    """Modalities that less than :data:`LEARNED_SHARE` of the training samples lacked.

    If the training rows cannot be read, only ``modality_dropout`` counts.
    """
    shares = dict.fromkeys(get_args(Modality), module.hparams["modality_dropout"] / 2)
    with suppress(DataError):
        rows = data.read_split("train").table
        shares = {side: share + rows[side].null_count / len(rows) for side, share in shares.items()}
    never = module.model.head.never_missing
    return [side for side, share in shares.items() if share < LEARNED_SHARE or side in never]


@torch.inference_mode()
def _single_modality(trainer: L.Trainer, module: EPICModule) -> tuple[Tensor, Tensor]:
    """Logits ``(N, C)`` of images alone and of texts alone; each batch is read once.

    A unimodal sample keeps its modality in both.
    """
    rank_zero_info("Report: each modality alone")
    image_only, text_only = [], []
    for batch, logits in tested_batches(trainer, module):
        image, text = presence_masks(batch)
        image_only.append(logits(image_present=image, text_present=text & ~image))
        text_only.append(logits(image_present=image & ~text, text_present=text))
    return torch.cat(image_only), torch.cat(text_only)
