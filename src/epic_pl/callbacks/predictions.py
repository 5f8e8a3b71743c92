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

from epic_pl.errors import DataError
from epic_pl.module import EPICModule
from epic_pl.validate import check_writable

Floats = npt.NDArray[np.float32]


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
        DataError: at the end of predict, if ranks have lost or doubled rows.
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
        """Drop the predictions of an earlier run."""
        self._columns: dict[str, list[str | None]] = {"sample_id": [], "image_path": []}
        self._scores: list[Floats] = []

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the predictions of a batch."""
        self._columns["sample_id"] += outputs["sample_id"]
        self._columns["image_path"] += [name or None for name in batch.get("image_path", [])]
        self._scores.append(outputs["probabilities"].numpy())

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write this rank's part; rank 0 merges all."""
        assert isinstance(pl_module, EPICModule)
        path = self._path(trainer)
        table = self._table(pl_module)
        if trainer.world_size > 1:
            pa.parquet.write_table(table, _part(path, trainer.global_rank))
            trainer.strategy.barrier("predictions")
            if not trainer.is_global_zero:
                return
            table = merge_parts([_part(path, rank) for rank in range(trainer.world_size)])
        temporary = path.with_name(f".{path.name}.tmp")
        write = pa.csv.write_csv if path.suffix == ".csv" else pa.parquet.write_table
        write(table, temporary)
        temporary.replace(path)
        rank_zero_info(f"{table.num_rows} predictions written to {path}")

    def _table(self, module: EPICModule) -> pa.Table:
        thresholds = module.postprocessor.thresholds
        least: Any = None
        if thresholds is not None:
            least = thresholds.float().cpu().numpy() if self.threshold is None else self.threshold
        columns = {n: v for n, v in self._columns.items() if v or n != "image_path"}
        empty = np.zeros((0, len(module.class_names)), np.float32)
        scores = np.concatenate([empty, *self._scores])  # (N, C)
        return prediction_table(columns, scores, module.class_names, least, self.top_k)


def prediction_table(
    columns: Mapping[str, Any],
    scores: Floats,
    class_names: Sequence[str],
    thresholds: Floats | float | None,
    top_k: int | None,
) -> pa.Table:
    """``columns`` of strings, ``label``, and probabilities as :class:`PredictionWriter` says.

    Args:
        columns: what names the samples.
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
        name: values if isinstance(values, pa.ChunkedArray) else pa.array(values, pa.string())
        for name, values in {**columns, "label": label}.items()
    }
    if top_k is None:
        table |= {f"probability_{name}": scores[:, i] for i, name in enumerate(class_names)}
    else:
        for k in range(min(top_k, len(class_names))):
            table[f"label_{k + 1}"] = names[order[:, k]].tolist()
            table[f"probability_{k + 1}"] = scores[np.arange(len(scores)), order[:, k]]
    return pa.table(table)


def merge_parts(parts: list[Path]) -> pa.Table:
    """Join the parts of all ranks in the order of the data, each sample once; remove the parts.

    Raises:
        DataError: if a part is missing, or ranks have lost rows.
    """
    missing = [str(part) for part in parts if not part.is_file()]
    if missing:
        raise DataError(
            f"Rank 0 cannot read {', '.join(missing)}: set trainer.default_root_dir to a folder "
            "that all machines share."
        )
    tables = [pa.parquet.read_table(part) for part in parts]
    lengths = [table.num_rows for table in tables]
    if max(lengths) - min(lengths) > 1:
        raise DataError(f"Ranks predicted {lengths} rows: some are lost; run predict again.")
    # row j of rank r is row j * ranks + r of the data
    positions = [np.arange(n) * len(parts) + rank for rank, n in enumerate(lengths)]
    # the part of a rank without rows may lack the image column
    table = pa.concat_tables(tables, promote_options="default")
    table = table.take(pa.array(np.argsort(np.concatenate(positions))))
    ids = np.array(table["sample_id"].to_pylist(), dtype=object)
    _, first = np.unique(ids, return_index=True)
    for part in parts:
        part.unlink()
    return table.take(pa.array(np.sort(first)))


def _part(path: Path, rank: int) -> Path:
    return path.with_name(f".{path.name}.rank{rank}")
