"""Predictions as one table, in the order of the data.

Shape legend: N samples, C classes.
"""

from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info

from epic_pl.data import ImageTextDataModule, TableDataModule
from epic_pl.data.bulk_pass import BulkPass
from epic_pl.data.rows import Rows
from epic_pl.data.tables.formats import write_csv
from epic_pl.module import EPICModule
from epic_pl.module.callbacks.feature_cache import FeatureCache
from epic_pl.module.prediction_table import Floats, prediction_table, sample_columns
from epic_pl.utils.errors import ConfigError, DataError, counted
from epic_pl.utils.files import replacing
from epic_pl.utils.share import Share
from epic_pl.utils.validate import check_writable


class PredictionWriter(Callback):
    """Writes ``sample_id``, ``label`` and probabilities of every predicted sample, in order.

    In a multilabel task ``label`` joins with ``|`` the labels that reach their thresholds. If the
    batches name images, the column ``image_path`` has each sample's, null if it has none, since
    samples of one image are not independent. Rows that ranks repeat are dropped by id.

    A file is written at the end. A folder gets a Parquet file for every 64 batches; each process
    writes files of its own, and a command that was killed continues with the first missing one.

    A CSV file has the delimiter and the byte order mark, if any, of the CSV file that is predicted.

    Args:
        output: name of a ``.parquet`` or ``.csv`` file, relative to the run's log folder; or a
            name without a suffix, for a folder below ``trainer.default_root_dir``.
        top_k: None writes one probability column a class (``probability_<class>``); k writes the k
            best as columns ``label_1``, ``probability_1``, ...
        shard: part of the rows as ``i/n``, for jobs that do not wait for each other and write to
            one folder; None is all.

    Raises:
        ConfigError: before predict, if the file cannot be written.
        DataError: at the end of predict, if ranks have lost rows.
    """

    def __init__(
        self,
        output: str = "predictions.parquet",
        top_k: int | None = None,
        shard: str | None = None,
    ) -> None:
        if (suffix := Path(output).suffix) not in ("", ".parquet", ".csv"):
            raise DataError(f"Predictions are .parquet or .csv, or a folder, not {output!r}.")
        if Share.of(shard).count > 1 and suffix:
            raise ConfigError(f"Shards write a folder: name {output!r} without its {suffix}.")
        self.output = output
        self.top_k = top_k
        self.shard = shard
        self._in_parts = not suffix
        self._full_texts = 0
        self._bulk: BulkPass | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Check that the output can be written before anything is predicted."""
        if stage != "predict":
            return
        path = self._path(trainer)
        file = path / "part" if self._in_parts else path
        check_writable("predictions.output", file.parent, file.name)
        if self._in_parts:
            data = ImageTextDataModule.of(trainer)
            if data is None:
                raise ConfigError("Loaders of your own need predictions.output .parquet or .csv.")
            assert isinstance(pl_module, EPICModule)
            data.predict_in_parts(partial(self._open_pass, trainer, pl_module, data))

    def _path(self, trainer: L.Trainer) -> Path:
        root = trainer.default_root_dir if self._in_parts else trainer.log_dir
        return Path(root or trainer.default_root_dir) / self.output

    def _open_pass(
        self, trainer: L.Trainer, module: EPICModule, data: ImageTextDataModule, rows: Rows
    ) -> tuple[BulkPass, pa.Table]:
        """Open the parts that this process has to write; its weights are loaded."""
        caches = (c for c in cast(Any, trainer).callbacks if isinstance(c, FeatureCache))
        self._bulk = BulkPass(
            self._path(trainer),
            rows,
            data.eval_batch_size_per_device,
            Share.of(self.shard, trainer.global_rank, trainer.world_size),
            data.on_bad_sample,
            module.digest(),
            top_k=self.top_k,
            preprocessing=data.preprocessing,
            alone=data.alone,
            precision=trainer.precision,
            caches=[(cache.level_for(module, data), cache.dtype) for cache in caches],
        )
        none = np.zeros((0, module.num_classes), np.float32)
        return self._bulk, self._table(module, sample_columns(None), none)

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let the module gather its outputs, unless they are written part by part."""
        assert isinstance(pl_module, EPICModule)
        self._full_texts = 0
        if not self._in_parts:
            pl_module.outputs.start(trainer.world_size)

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Write a part when its last batch is predicted."""
        if data := ImageTextDataModule.of(trainer):
            self._full_texts += data.processor.full_texts(batch)
        if self._bulk is not None:
            scores = outputs["probabilities"].float().numpy()
            self._bulk.add(self._table(pl_module, sample_columns(batch), scores))

    def _table(self, module: EPICModule, columns: dict[str, Any], scores: Floats) -> pa.Table:
        least = module.postprocessor.threshold_array()
        return prediction_table(columns, scores, module.class_names, least, self.top_k)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Print how many parts there are, and let the DataModule read all rows again."""
        if self._bulk is not None and stage == "predict":
            rank_zero_info(str(self._bulk))
            self._bulk = None
            cast(Any, trainer).datamodule.predict_in_parts(None)

    def on_predict_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Write the predictions of all ranks, on rank zero."""
        if data := ImageTextDataModule.of(trainer):
            data.processor.tell_full(self._full_texts)
        if self._in_parts:
            return
        # every rank must make these two calls, since they exchange data
        path, outputs = self._path(trainer), pl_module.outputs.merged(even=True)
        if not trainer.is_global_zero:
            return
        columns: dict[str, Any] = {"sample_id": outputs.sample_id}
        if outputs.image_path:
            columns["image_path"] = outputs.image_path
        scores = pl_module.postprocessor.on_cpu()(outputs.logits).numpy()
        table = self._table(pl_module, columns, scores)
        source = (data.predict_path or data.path) if isinstance(data, TableDataModule) else None
        with replacing(path) as partial:
            if path.suffix == ".csv":
                write_csv(table, partial, like=source)
            else:
                pa.parquet.write_table(table, partial)
        rank_zero_info(f"{counted(table.num_rows, 'predictions')} written to {path}")
