"""Result of each test sample of a compared run.

Shape legend: N test samples, C classes.
"""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from epic_pl.module import EPICModule


class TestOutputs(Callback):
    """Keeps the probabilities and the true labels of every test sample."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._images: list[str | None] = []
        self._scores: list[Tensor] = []
        self._labels: list[Tensor] = []

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep a batch."""
        assert isinstance(pl_module, EPICModule)
        self._ids += batch["sample_id"]
        self._images += batch.get("image_path", [None] * len(batch["sample_id"]))
        self._scores.append(pl_module.postprocessor(outputs["logits"].detach()).cpu())
        self._labels.append(batch["labels"].cpu())

    def write(self, path: Path, classes: list[str]) -> None:
        """Write columns ``sample_id``, ``image_path``, ``truth`` and ``probability_<class>``.

        ``truth`` is a class name, or a list of them for multilabel.
        """
        scores = np.concatenate([part.numpy() for part in self._scores])  # (N, C)
        labels = np.concatenate([part.numpy() for part in self._labels])  # (N,) or (N, C)
        if labels.ndim == 1:
            truth = pa.array([classes[int(label)] for label in labels], pa.string())
        else:
            named = [[classes[int(at)] for at in np.flatnonzero(row)] for row in labels]
            truth = pa.array(named, pa.list_(pa.string()))
        images = pa.array(self._images, pa.string())
        columns = {"sample_id": self._ids, "image_path": images, "truth": truth}
        columns |= {f"probability_{name}": scores[:, i] for i, name in enumerate(classes)}
        pa.parquet.write_table(pa.table(columns), path)
