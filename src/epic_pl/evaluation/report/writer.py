"""The callback that follows a test with a report."""

import json
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure

from epic_pl.callbacks.plots import draw_confusion_matrix
from epic_pl.data import ImageTextDataModule
from epic_pl.errors import ConfigError
from epic_pl.evaluation.report.absence import absence_table
from epic_pl.evaluation.report.corruption import CORRUPTIONS
from epic_pl.evaluation.report.figures import draw_reliability
from epic_pl.evaluation.report.mistakes import add_samples, worst_mistakes
from epic_pl.evaluation.report.outcome import Judge, Outcome, number, presence_of
from epic_pl.evaluation.report.page import page
from epic_pl.evaluation.report.passes import Passes
from epic_pl.evaluation.report.tables import calibration_table, class_table, confusion_counts
from epic_pl.html_page import png
from epic_pl.module import EPICModule


class ReportWriter(Callback):
    """Writes what a test found out: a page, all of its numbers, and its pictures.

    ``report.html`` needs no other file; ``report.json`` holds every number of it. On one device.

    Args:
        folder: where; None writes nothing. ``epic-pl test --report DIR`` sets it.
        absence: test with one modality absent too, in two more passes over the split.
        robustness: test with corrupted texts and pictures too, in ten more passes, through the
            encoders even if features are stored.
        mistakes: how many of the worst to show.
        seed: of who loses a modality, and of the corruptions.

    Raises:
        ConfigError: before the test, if it cannot be reported on.
    """

    def __init__(
        self,
        folder: str | None = None,
        absence: bool = True,
        robustness: bool = True,
        mistakes: int = 12,
        seed: int = 0,
    ) -> None:
        for name, value in (("mistakes", mistakes), ("seed", seed)):
            if value < 0:
                raise ConfigError(f"report.{name} is {value}, but must be at least 0.")
        self.folder = None if folder is None else Path(folder)
        self.absence = absence
        self.robustness = robustness
        self.mistakes = mistakes
        self.seed = seed
        self._parts: list[Outcome] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Look whether a report can be made and written, before the test costs any time."""
        if self.folder is None or stage != "test":
            return
        data: Any = getattr(trainer, "datamodule", None)
        if not isinstance(data, ImageTextDataModule) or not isinstance(pl_module, EPICModule):
            raise ConfigError(
                "A report reads the test split of an ImageTextDataModule with EPICModule: leave "
                "report.folder out for loaders of your own."
            )
        if trainer.world_size > 1:
            raise ConfigError(
                f"A report is made by one process, but there are {trainer.world_size}. Set "
                "trainer.devices and trainer.num_nodes to 1 for epic-pl test --report."
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"report.folder {self.folder} cannot be made: {error.strerror}. Name a folder that "
                "can be written."
            ) from error

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start from nothing."""
        self._parts = []
        if self.folder is not None and len(trainer.num_test_batches) != 1:
            raise ConfigError(
                f"A report is about one test loader, but there are {len(trainer.num_test_batches)}."
                " Leave report.folder out."
            )

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch's logits and labels."""
        if self.folder is None:
            return
        logits, labels = outputs["logits"].float().cpu(), batch["labels"].cpu()
        self._parts.append(Outcome(list(batch["sample_id"]), logits, labels, *presence_of(batch)))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Run the further passes, and write."""
        if self.folder is None or not self._parts:
            return
        assert isinstance(pl_module, EPICModule)
        outcome, judge = Outcome.joined(self._parts), Judge.of(pl_module)
        self._parts = []
        data: Any = getattr(trainer, "datamodule", None)
        content: dict[str, Any] = {
            "data": type(data).__name__,
            "checkpoint": None if trainer.ckpt_path is None else str(trainer.ckpt_path),
            "text": data.preprocessing["text"],
            "task": judge.task,
            "samples": len(outcome.sample_id),
            "metrics": {
                name: number(value)
                for name, value in sorted(trainer.callback_metrics.items())
                if name.startswith("test/")
            },
            "classes": class_table(judge, outcome),
            "calibration": calibration_table(judge, outcome),
            "seed": self.seed,
            **self._further(Passes(trainer, pl_module, data, outcome), judge, outcome),
            "mistakes": worst_mistakes(judge, outcome, self.mistakes),
        }
        figures = {"reliability": draw_reliability(content["calibration"], judge.task)}
        if judge.task == "multiclass":
            counts = confusion_counts(judge, outcome)
            content["confusion"] = counts.tolist()
            figures["confusion_matrix"] = draw_confusion_matrix(counts, judge.class_names)
        self._write(self.folder, content, figures, data)

    def _write(
        self,
        folder: Path,
        content: dict[str, Any],
        figures: dict[str, Figure],
        data: ImageTextDataModule,
    ) -> None:
        pictures = add_samples(content["mistakes"], data.dataset("test"), data.image_preprocessing)
        drawn = {name: png(figure) for name, figure in figures.items()}
        for name, picture in drawn.items():
            (folder / f"{name}.png").write_bytes(picture)
        numbers = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / "report.json").write_text(numbers, encoding="utf-8")
        path = folder / "report.html"
        path.write_text("\n".join(page(content, drawn, pictures)), encoding="utf-8")
        rank_zero_info(f"Report written to {path}")

    def _further(self, passes: Passes, judge: Judge, outcome: Outcome) -> dict[str, Any]:
        """Tables of what more passes show."""
        tables: dict[str, Any] = {}
        if self.absence:
            tables["absence"] = absence_table(judge, outcome, *passes.one_modality(), self.seed)
        if self.robustness:
            tables["robustness"] = [
                {"condition": name, "samples": len(logits), **judge.scores(logits, outcome.labels)}
                for name, logits in (
                    ("as it is", outcome.logits),
                    *((each, passes.corrupted(each, self.seed)) for each in CORRUPTIONS),
                )
            ]
        return tables
