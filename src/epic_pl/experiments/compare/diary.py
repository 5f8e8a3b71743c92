"""Callbacks of a compared run: how long it took, how far it is, and each test sample's outcome.

Shape legend: N test samples, C classes.
"""

import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from epic_pl.experiments.compare.files import write_json
from epic_pl.module import EPICModule


class RunDiary(Callback):
    """Counts the seconds of a fit, also of one that was killed and resumed.

    Args:
        file: JSON that says how far the run is, for whoever waits for it.
        monitor: the metric to show there.
    """

    def __init__(self, file: Path, monitor: str | None) -> None:
        self.file = file
        self.monitor = monitor
        self.prepare_seconds = 0.0
        self.history: list[list[float]] = []
        """(step, seconds) at the end of each validation."""
        self._before = self._setup_start = self._start = self._written = 0.0

    @property
    def seconds(self) -> float:
        """From the first batch on, validation and checkpoints included."""
        return self._before + (time.perf_counter() - self._start if self._start else 0.0)

    def seconds_to(self, step: int) -> float:
        """Seconds until the validation that followed ``step``."""
        return next((at for seen, at in self.history if seen >= step), self.seconds)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Features are stored in this hook of a later callback."""
        self._setup_start = time.perf_counter()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting."""
        self._start = time.perf_counter()
        self.prepare_seconds += self._start - self._setup_start

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Say once a second how far the run is."""
        if time.perf_counter() - self._written > 1:
            self._write(trainer, (batch_idx + 1) / max(1, trainer.num_training_batches))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember when, before the checkpoint is written."""
        if self._start and not trainer.sanity_checking:
            self.history.append([trainer.global_step, self.seconds])
            self._write(trainer, 1.0)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop counting."""
        self._before, self._start = self.seconds, 0.0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on from."""
        return {
            "seconds": self.seconds,
            "prepare_seconds": self.prepare_seconds,
            "history": self.history,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._before = state_dict["seconds"]
        self.prepare_seconds = state_dict["prepare_seconds"]
        self.history = list(state_dict["history"])

    def _write(self, trainer: L.Trainer, of_epoch: float) -> None:
        self._written = time.perf_counter()
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None
        value = trainer.callback_metrics.get(self.monitor or "")
        progress = {
            "share": min(1.0, (trainer.current_epoch + of_epoch) / epochs) if epochs else None,
            "epoch": trainer.current_epoch + 1,
            "epochs": epochs,
            "metric": self.monitor,
            "value": None if value is None else float(value),
        }
        write_json(self.file, progress)


class TestOutputs(Callback):
    """Keeps the probabilities and the true labels of every test sample."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._scores: list[Tensor] = []
        self._labels: list[Tensor] = []

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start from nothing."""
        self._ids, self._scores, self._labels = [], [], []

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch."""
        assert isinstance(pl_module, EPICModule)
        self._ids += batch["sample_id"]
        probabilities = pl_module.postprocessor(outputs["logits"].detach())
        self._scores.append(probabilities.cpu())
        self._labels.append(batch["labels"].cpu())

    def write(self, path: Path, classes: list[str]) -> None:
        """A table of ``sample_id``, ``truth`` and ``probability_<class>``.

        ``truth`` is a class name, or a list of them for multilabel.
        """
        scores = np.concatenate([part.numpy() for part in self._scores])  # (N, C)
        labels = np.concatenate([part.numpy() for part in self._labels])  # (N,) or (N, C)
        if labels.ndim == 1:
            truth = pa.array([classes[int(label)] for label in labels], pa.string())
        else:
            named = [[classes[int(at)] for at in np.flatnonzero(row)] for row in labels]
            truth = pa.array(named, pa.list_(pa.string()))
        columns = {"sample_id": pa.array(self._ids, pa.string()), "truth": truth}
        columns |= {f"probability_{name}": pa.array(scores[:, i]) for i, name in enumerate(classes)}
        pa.parquet.write_table(pa.table(columns), path)
