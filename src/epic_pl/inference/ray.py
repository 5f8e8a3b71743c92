"""Predict the rows of Parquet files on a cluster, with Ray Data (extra ``ray``).

Ray reads, schedules and writes, repeats what a lost node had in work, and keeps a checkpoint of the
rows that are written. :class:`Predictor` is what its actors do.
"""

import logging
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
from pyarrow import dataset, fs

from epic_pl.data.images import BadSamplePolicy
from epic_pl.inference.classifier import Classifier
from epic_pl.module.callbacks.predictions import prediction_table
from epic_pl.utils import part_files
from epic_pl.utils.errors import ConfigError, DataError
from epic_pl.utils.validate import check_word

_LEAST_CPUS = 3  # for an actor, the rows and the checkpoint; with fewer, Ray waits for ever
_log = logging.getLogger(__name__)


class Predictor:
    """Predicts batches of rows with a model that is loaded once; arguments are as below."""

    def __init__(
        self,
        model: str,
        id: str,
        image: str | None,
        text: str | None,
        top_k: int | None,
        on_bad_sample: BadSamplePolicy = "error",
    ) -> None:
        self.classifier, self.id, self.top_k = Classifier.load(model), id, top_k
        self.columns = {side: name for side, name in (("image", image), ("text", text)) if name}
        self.on_bad_sample = on_bad_sample

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Predictions of a batch; a DataError names a row that cannot be used."""
        samples, used = [], []
        for number, row in enumerate(batch.to_pylist()):
            try:
                samples.append(self._sample(row))
                used.append(number)
            except (DataError, OSError) as error:
                if self.on_bad_sample == "error":
                    raise DataError(f"Row {row[self.id]}: {error}") from error
                _log.warning("Row %s is left out: %s", row[self.id], error)
        names, thresholds = self.classifier.class_names, self.classifier.thresholds
        scores = np.empty((0, len(names)), np.float32)
        if samples:
            scores = self.classifier.sample_probabilities(samples)
        known = {self.id: batch[self.id].take(pa.array(used, pa.int64()))}
        return prediction_table(known, scores, names, thresholds, self.top_k)

    def _sample(self, row: dict[str, Any]) -> Any:
        item: Any = {side: row[name] for side, name in self.columns.items()}
        try:
            return self.classifier.prepare(item | {"image": _fetch(item.get("image"))})
        except (DataError, OSError) as error:
            if self.on_bad_sample != "absent" or item.get("image") is None:
                raise
            _log.warning("Row %s is stripped of its image: %s", row[self.id], error)
            return self.classifier.prepare(item | {"image": None})


def predict_parquet(
    model: str | Path,
    source: str | Path,
    output: str | Path,
    *,
    id: str,
    image: str | None = None,
    text: str | None = None,
    on_bad_sample: BadSamplePolicy = "error",
    top_k: int | None = None,
    batch_size: int = 32,
    actors: int = 1,
    gpus: float = 0,
) -> None:
    """Predict the rows of Parquet files on a Ray cluster, and write Parquet files.

    A call that was ended is made again and continues with the rows whose ids are not written yet.
    The folder ``OUTPUT.done`` records those that are: to start anew, remove both.

    Args:
        model: as for :meth:`~epic_pl.Classifier.load`, where all nodes see it.
        source: a file or folder that all nodes see, or an address such as ``s3://bucket/rows``.
        output: a folder or an address. Its files have the column ``id``, labels and probabilities.
        id: column of unique names.
        image: column of paths, of addresses for fsspec such as ``s3://bucket/1.jpg``, or of bytes.
        text: column of texts.
        on_bad_sample: as for :meth:`~epic_pl.Classifier.predict_table`; Ray logs such rows.
        top_k: as for :meth:`~epic_pl.Classifier.predict_table`.
        batch_size: number of rows at a time; 64 batches are written at once.
        actors: largest number of models at a time.
        gpus: of each, or a part of one.

    Raises:
        ConfigError: Ray is not installed or has fewer than three CPUs, no column is named, or the
            output was written with another model or other arguments.
        DataError: the source has no such columns.
    """
    try:
        import ray
        from ray.data.checkpoint import CheckpointConfig
    except ImportError as error:
        raise ConfigError(f"{__name__} needs {error.name}: pip install 'epic_pl[ray]'.") from error
    check_word(get_args(BadSamplePolicy), on_bad_sample=on_bad_sample)
    columns = [name for name in (id, image, text) if name]
    if columns == [id]:
        raise ConfigError("Name the column of images, of texts, or both.")
    source, output = _absolute(source), _absolute(output)
    system, path = fs.FileSystem.from_uri(source)
    there = dataset.dataset(path, filesystem=system, format="parquet").schema.names
    if lacking := [name for name in columns if name not in there]:
        raise DataError(f"{source} has no column {lacking[0]!r}, but: {', '.join(there)}.")
    model = _absolute(model) if Path(model).exists() else str(model)  # or a name on a hub
    options = {"id": id, "image": image, "text": text, "top_k": top_k}
    options["on_bad_sample"] = on_bad_sample
    digest = Classifier.load(model, device="cpu").digest
    # without the batch size: Ray's batches are of other rows each time anyway
    done = f"{output}.done/{part_files.identity(digest, source, gpu=gpus > 0, **options)}"
    system, folder = fs.FileSystem.from_uri(f"{output}.done")
    earlier = system.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    if any(not done.endswith(info.base_name) for info in earlier):
        raise ConfigError(
            f"{output} was written with another model, source or other options: give another "
            f"output, or remove it and {output}.done."
        )
    if not ray.is_initialized():
        ray.init()
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray's
    if 0 < (cpus := int(resources.get("CPU", 0))) < _LEAST_CPUS:
        raise ConfigError(
            f"Ray has {cpus} CPUs, but an actor, the rows and the checkpoint need {_LEAST_CPUS}: "
            f"add a node, or on one machine call ray.init(num_cpus={_LEAST_CPUS}) before."
        )
    rows = ray.data.read_parquet(source, columns=columns)
    rows.context.checkpoint_config = CheckpointConfig(id, done, delete_checkpoint_on_success=False)
    blocks = rows.repartition(target_num_rows_per_block=batch_size * part_files.BATCHES)
    blocks.map_batches(
        Predictor,
        fn_constructor_kwargs={"model": model, **options},
        batch_size=batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
        num_gpus=gpus or None,
    ).write_parquet(output)


def _absolute(path: str | Path) -> str:
    """A path from every node's working folder; an address stays as it is."""
    return str(path) if "://" in str(path) else str(Path(path).resolve())


def _fetch(image: Any) -> Any:
    """An image as a path or bytes."""
    if isinstance(image, str) and "://" in image:
        import fsspec

        with fsspec.open(image) as file:
            return file.read()
    return image
