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
from epic_pl.evaluation.evaluator import Evaluator, finite
from epic_pl.evaluation.report.absence import absence_table
from epic_pl.evaluation.report.calibration import calibration_table
from epic_pl.evaluation.report.classes import class_table, confusion_counts
from epic_pl.evaluation.report.corruption import CORRUPTIONS
from epic_pl.evaluation.report.figures import draw_reliability
from epic_pl.evaluation.report.mistakes import add_samples, worst_mistakes
from epic_pl.evaluation.report.outputs import SplitOutputs, presence_masks
from epic_pl.evaluation.report.passes import AdditionalPasses
from epic_pl.html_page import jpeg, png, render
from epic_pl.module import EPICModule


class ReportWriter(Callback):
    """Writes metrics, calibration, weak spots and worst mistakes of a test on one device.

    ``report.html`` needs no other file; ``report.json`` holds all of its numbers.

    Args:
        folder: to write to; None writes nothing. ``epic-pl test --report DIR`` sets it.
        absence: test with one modality absent, too: two more passes over the split.
        robustness: test with corrupted texts and pictures, too: ten more passes, through the
            encoders even if features are stored.
        mistakes: number of mistakes to show.
        seed: of the draws of absent modalities and of the corruptions.

    Raises:
        ConfigError: before the test, if no report can be made or written.
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
        self._parts: list[SplitOutputs] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check that a report can be made and written, before the test takes any time."""
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
        """Drop the outputs of an earlier test."""
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
        """Keep the logits and labels of a batch."""
        if self.folder is None:
            return
        logits, labels = outputs["logits"].float().cpu(), batch["labels"].cpu()
        ids = list(batch["sample_id"])
        self._parts.append(SplitOutputs(ids, logits, labels, *presence_masks(batch)))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Run the additional passes and write the report."""
        if self.folder is None or not self._parts:
            return
        assert isinstance(pl_module, EPICModule)
        outputs, evaluator = SplitOutputs.concatenate(self._parts), Evaluator.of(pl_module)
        self._parts = []
        data: Any = getattr(trainer, "datamodule", None)
        passes = AdditionalPasses(trainer, pl_module, data, outputs)
        content: dict[str, Any] = {
            "data": type(data).__name__,
            "checkpoint": None if trainer.ckpt_path is None else str(trainer.ckpt_path),
            "text": data.preprocessing["text"],
            "task": evaluator.task,
            "samples": len(outputs.sample_id),
            "metrics": {
                name: finite(value)
                for name, value in sorted(trainer.callback_metrics.items())
                if name.startswith("test/")
            },
            "classes": class_table(evaluator, outputs),
            "calibration": calibration_table(evaluator, outputs),
            "seed": self.seed,
            **self._tables(passes, evaluator, outputs),
            "mistakes": worst_mistakes(evaluator, outputs, self.mistakes),
        }
        figures = {"reliability": draw_reliability(content["calibration"], evaluator.task)}
        if evaluator.task == "multiclass":
            counts = confusion_counts(evaluator, outputs)
            content["confusion"] = counts.tolist()
            figures["confusion_matrix"] = draw_confusion_matrix(counts, evaluator.class_names)
        pictures = add_samples(content["mistakes"], data.dataset("test"), data.image_preprocessing)
        _write(self.folder, content, figures, pictures)

    def _tables(
        self, passes: AdditionalPasses, evaluator: Evaluator, outputs: SplitOutputs
    ) -> dict[str, Any]:
        """Scores of the additional passes."""
        tables: dict[str, Any] = {}
        if self.absence:
            image_only, text_only = passes.single_modality()
            tables["absence"] = absence_table(evaluator, outputs, image_only, text_only, self.seed)
        if self.robustness:
            passed = {name: passes.corrupted(name, self.seed) for name in CORRUPTIONS}
            tables["robustness"] = [
                {"condition": name, "samples": len(logits)}
                | evaluator.scores(logits, outputs.labels)
                for name, logits in {"as it is": outputs.logits, **passed}.items()
            ]
        return tables


def _write(
    folder: Path, content: dict[str, Any], figures: dict[str, Figure], pictures: list[Any]
) -> None:
    drawn = {name: png(figure) for name, figure in figures.items()}
    for name, picture in drawn.items():
        (folder / f"{name}.png").write_bytes(picture)
    numbers = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "report.json").write_text(numbers, encoding="utf-8")
    shown = [None if picture is None else jpeg(picture) for picture in pictures]
    page = render("evaluation/templates/report.html", **content, figures=drawn, pictures=shown)
    (folder / "report.html").write_text(page, encoding="utf-8")
    rank_zero_info(f"Report written to {folder / 'report.html'}")
