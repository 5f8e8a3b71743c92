"""Write predictions to one table: each rank its own part, merged by id in the order of the data.

Shape legend: C classes.
"""

from collections.abc import Sequence
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
from epic_pl.types import Prediction


class PredictionWriter(Callback):
    """Writes ``sample_id``, ``label`` and probabilities of every predicted sample.

    Rank r of w predicts the samples r, r + w, r + 2w, ... so the parts interleave back into the
    order of the data; rows that a sampler repeated to even out the ranks are dropped by id.

    Args:
        output: file name, ``.parquet`` or ``.csv``; relative to the run's log folder.
        top_k: None writes one probability column a class (``probability_<class>``); k writes the k
            best as columns ``label_1``, ``probability_1``, ...
        threshold: multilabel: labels at or above it are written in ``label``, joined by ``|``. None
            takes each label's own, tuned on validation and kept in the checkpoint (0.5 before).

    Raises:
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
        self._batches: list[Prediction] = []

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start from nothing."""
        self._batches = []

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch's probabilities."""
        self._batches.append(outputs)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write this rank's part; rank 0 merges."""
        assert isinstance(pl_module, EPICModule)
        path = Path(trainer.log_dir or trainer.default_root_dir) / self.output
        path.parent.mkdir(parents=True, exist_ok=True)
        table = self._table(self._batches, pl_module.class_names, self._thresholds(pl_module))
        self._batches = []
        world_size = trainer.world_size
        if world_size > 1:
            pa.parquet.write_table(table, _part(path, trainer.global_rank))
            trainer.strategy.barrier("predictions")
            if not trainer.is_global_zero:
                return
            table = merge_parts([_part(path, rank) for rank in range(world_size)])
        _write(table, path)
        rank_zero_info(f"{table.num_rows} predictions written to {path}")

    def _thresholds(self, module: EPICModule) -> npt.NDArray[np.float32] | None:
        """``(C,)`` of a multilabel task, else None."""
        thresholds = module.postprocessor.thresholds
        if thresholds is None:
            return None
        own = thresholds.float().cpu().numpy()  # (C,)
        return own if self.threshold is None else np.full_like(own, self.threshold)

    def _table(
        self,
        batches: Sequence[Prediction],
        classes: list[str],
        thresholds: npt.NDArray[np.float32] | None,
    ) -> pa.Table:
        ids = [sample_id for batch in batches for sample_id in batch["sample_id"]]
        rows = [batch["probabilities"].numpy() for batch in batches]
        scores = np.concatenate(rows) if rows else np.zeros((0, len(classes)), np.float32)  # (N, C)
        order = np.argsort(-scores, axis=1, kind="stable")  # (N, C)
        names = np.array(classes, dtype=object)
        if thresholds is not None:
            label = ["|".join(names[row >= thresholds]) for row in scores]
        else:
            label = names[order[:, 0]].tolist()
        columns: dict[str, Any] = {"sample_id": ids, "label": label}
        if self.top_k is None:
            columns |= {f"probability_{name}": scores[:, i] for i, name in enumerate(classes)}
        else:
            best = np.take_along_axis(scores, order, axis=1)
            for k in range(min(self.top_k, len(classes))):
                columns[f"label_{k + 1}"] = names[order[:, k]].tolist()
                columns[f"probability_{k + 1}"] = best[:, k]
        schema = {"sample_id": pa.string(), "label": pa.string()}
        return pa.table({k: pa.array(v, type=schema.get(k)) for k, v in columns.items()})


def merge_parts(parts: list[Path]) -> pa.Table:
    """One table from every rank's part, in the order of the data, each sample once.

    Raises:
        DataError: if a part is missing (ranks on machines that share no folder), or the parts'
            lengths cannot come from one data set dealt out in turn.
    """
    missing = [str(part) for part in parts if not part.is_file()]
    if missing:
        raise DataError(
            f"Predictions of some ranks are not where rank 0 can read them: {', '.join(missing)}. "
            "Set trainer.default_root_dir to a folder that all machines share."
        )
    tables = [pa.parquet.read_table(part) for part in parts]
    lengths = [table.num_rows for table in tables]
    if max(lengths) - min(lengths) > 1:
        raise DataError(f"Ranks predicted {lengths} rows: some are lost; run predict again.")
    # position of row j of rank r in the data: j * ranks + r
    positions = [np.arange(n) * len(parts) + rank for rank, n in enumerate(lengths)]
    table = pa.concat_tables(tables).take(pa.array(np.argsort(np.concatenate(positions))))
    ids = np.array(table["sample_id"].to_pylist(), dtype=object)
    _, first = np.unique(ids, return_index=True)
    table = table.take(pa.array(np.sort(first)))
    for part in parts:
        part.unlink()
    return table


def _part(path: Path, rank: int) -> Path:
    return path.with_name(f".{path.name}.rank{rank}")


def _write(table: pa.Table, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    if path.suffix == ".csv":
        pa.csv.write_csv(table, temporary)
    else:
        pa.parquet.write_table(table, temporary)
    temporary.replace(path)
