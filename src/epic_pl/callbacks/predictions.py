"""Predictions as one table, in the order of the data.

Shape legend: N samples, C classes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from epic_pl.errors import DataError, counted
from epic_pl.files import replacing
from epic_pl.module import EPICModule
from epic_pl.validate import check_writable

Floats = npt.NDArray[np.float32]
_ARRAYS = (pa.Array, pa.ChunkedArray)


class PredictionWriter(Callback):
    """Writes ``sample_id``, ``label`` and probabilities of every predicted sample, in order.

    The column ``image_path`` names each sample's image where batches do, null without one: samples
    of one image are not independent. Rows that ranks repeat are dropped by id.

    Args:
        output: file name, ``.parquet`` or ``.csv``; relative to the run's log folder.
        top_k: None writes one probability column a class (``probability_<class>``); k writes the k
            best as columns ``label_1``, ``probability_1``, ...
        threshold: multilabel: labels at or above it are written in ``label``, joined by ``|``. None
            takes each label's own, tuned on validation and kept in the checkpoint (0.5 before).

    Raises:
        ConfigError: before predict, if the file cannot be written.
        DataError: at the end of predict, if ranks have lost rows.
    """

    def __init__(
        self,
        output: str = "predictions.parquet",
        top_k: int | None = None,
        threshold: float | None = None,
    ) -> None:
        if Path(output).suffix not in (".parquet", ".csv"):
            raise DataError(f"Predictions are written as .parquet or .csv, not {output!r}.")
        self.output = output
        self.top_k = top_k
        self.threshold = threshold

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check that the file can be written, before the predictions take any time."""
        if stage == "predict":
            path = self._path(trainer)
            check_writable("predictions.output", path.parent, path.name)

    def _path(self, trainer: L.Trainer) -> Path:
        return Path(trainer.log_dir or trainer.default_root_dir) / self.output

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let the module gather its outputs."""
        assert isinstance(pl_module, EPICModule)
        pl_module.outputs.start(trainer.world_size)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the predictions of all ranks, on rank zero."""
        assert isinstance(pl_module, EPICModule)
        # both are collective calls, so every rank must make them
        path, outputs = self._path(trainer), pl_module.outputs.merged(even=True)
        if not trainer.is_global_zero:
            return
        columns: dict[str, Any] = {"sample_id": outputs.sample_id}
        if outputs.image_path:
            columns["image_path"] = outputs.image_path
        postprocessor = pl_module.postprocessor.on_cpu()
        least: Any = postprocessor.thresholds
        if least is not None:
            least = least.numpy() if self.threshold is None else self.threshold
        scores = postprocessor(outputs.logits).numpy()
        table = prediction_table(columns, scores, pl_module.class_names, least, self.top_k)
        write = pa.csv.write_csv if path.suffix == ".csv" else pa.parquet.write_table
        with replacing(path) as partial:
            write(table, partial)
        rank_zero_info(f"{counted(table.num_rows, 'predictions')} written to {path}")


def prediction_table(
    columns: Mapping[str, Any],
    scores: Floats,
    class_names: Sequence[str],
    thresholds: Floats | float | None,
    top_k: int | None,
) -> pa.Table:
    """``columns``, ``label``, and probabilities as :class:`PredictionWriter` says.

    Args:
        columns: what is known of the samples; lists are of strings.
        scores: probabilities ``(N, C)``.
        class_names: C names.
        thresholds: from which a label is assigned, ``(C,)`` or one of all; None for multiclass.
        top_k: as for the writer.
    """
    order = np.argsort(-scores, axis=1, kind="stable")  # (N, C)
    names = np.array(class_names, dtype=object)
    if thresholds is not None:
        label = ["|".join(names[row]) for row in scores >= thresholds]
    else:
        label = names[order[:, 0]].tolist()
    table = {
        name: values if isinstance(values, _ARRAYS) else pa.array(values, pa.string())
        for name, values in {**columns, "label": label}.items()
    }
    if top_k is None:
        table |= {f"probability_{name}": scores[:, i] for i, name in enumerate(class_names)}
    else:
        for k in range(min(top_k, len(class_names))):
            table[f"label_{k + 1}"] = names[order[:, k]].tolist()
            table[f"probability_{k + 1}"] = scores[np.arange(len(scores)), order[:, k]]
    return pa.table(table)
