"""Prediction of a table on a Ray cluster (extra ``ray``), also if nodes are lost."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

from epic_pl.data.images import BadSamplePolicy
from epic_pl.inference.bulk import read_source, write_parts
from epic_pl.inference.classifier import Classifier
from epic_pl.utils.errors import needs_extra
from epic_pl.utils.share import Share
from epic_pl.utils.validate import check_at_least, check_word


class Predictor:
    """An actor that loads the model and reads the table once."""

    def __init__(self, load: dict[str, Any], source: dict[str, Any], **options: Any) -> None:
        self.classifier = Classifier.load(**load)
        self.rows = read_source(**source, columns=self.classifier.processor.columns)
        self.make = partial(self.classifier.prediction_table, top_k=options["top_k"])
        self.options = options

    def __call__(self, shard: dict[str, Any]) -> dict[str, Any]:
        """Write the missing files of one shard."""
        processor, digest = self.classifier.processor, self.classifier.digest
        given = {"processor": processor, "make": self.make, "model": digest, **self.options}
        write_parts(self.rows, share=Share(**shard), **given)
        return shard


def predict_on_ray(
    model: str | Path,
    table: str | Path,
    output: str | Path,
    *,
    actors: int = 1,
    gpus: float = 0,
    top_k: int | None = None,
    batch_size: int = 32,
    on_bad_sample: BadSamplePolicy = "error",
    trust: Sequence[str] = (),
    **columns: Any,
) -> None:
    """Predict a table on a Ray cluster, and write a folder of Parquet files.

    The files equal those of one process. If a call was ended, the same call continues. Ray repeats
    the shards of a lost node. All nodes must be able to read model, table and output.

    Args:
        model: a model for :meth:`~epic_pl.Classifier.load`.
        table: a table, or a folder of images.
        output: folder of the files.
        actors: maximum number of models at a time.
        gpus: number of GPUs of each model; it may be a fraction.
        top_k: as for :meth:`~epic_pl.Classifier.predict_table`.
        batch_size: number of rows in a batch; 64 batches make a file.
        on_bad_sample: as for :meth:`~epic_pl.Classifier.predict_table`.
        trust: as for :meth:`~epic_pl.Classifier.load`.
        **columns: ``image``, ``text``, ``id`` and ``image_root`` of that method.

    Raises:
        EpicError: if the model or the table cannot be used, or Ray is not installed.
    """
    with needs_extra("ray", "predict_on_ray"):
        import ray
    source = {"table": Path(table).resolve(), **columns}
    check_word(get_args(BadSamplePolicy), on_bad_sample=on_bad_sample)
    check_at_least(1, batch_size=batch_size, actors=actors, top_k=top_k)
    read_source(**source)  # reports errors in the table before anything is started
    count = 4 * actors  # more shards than actors, so that a fast actor takes more of them
    shards = [{"index": index, "count": count} for index in range(count)]
    named = str(Path(model).resolve()) if Path(model).exists() else str(model)  # else a hub's
    options = {"top_k": top_k, "batch_size": batch_size, "on_bad_sample": on_bad_sample}
    given = {"load": {"path": named, "trust": list(trust)}, "source": source, **options}
    ray.data.from_items(shards, override_num_blocks=len(shards)).map(
        Predictor,  # type: ignore[arg-type]  # a class, as Ray documents
        fn_constructor_kwargs={"output": Path(output).resolve(), **given},
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
        num_gpus=gpus or None,
    ).take_all()
