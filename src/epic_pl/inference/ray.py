"""Predict a table on a Ray cluster (extra ``ray``), which repeats the shards of a lost node."""

from functools import partial
from pathlib import Path
from typing import Any

from epic_pl.inference.bulk import read_source, write_parts
from epic_pl.inference.classifier import Classifier
from epic_pl.utils.errors import ConfigError
from epic_pl.utils.share import Share

_SHARDS = 4  # of each actor: a fast one takes more, and a lost one costs less


class Predictor:
    """An actor, which loads the model and reads the table once."""

    def __init__(
        self, model: str, source: dict[str, Any], output: Path, top_k: int | None, **options: Any
    ) -> None:
        self.classifier, self.rows = Classifier.load(model), read_source(**source)
        self.output, self.options = output, options | {"top_k": top_k}
        self.make = partial(self.classifier.prediction_table, top_k=top_k)

    def __call__(self, shard: dict[str, Any]) -> dict[str, Any]:
        """Write one shard, or what of it is missing."""
        model = self.classifier.processor, self.make, self.classifier.digest
        share = Share(**shard)
        write_parts(self.rows, self.output, *model, share=share, **self.options)
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
    on_bad_sample: str = "error",
    **columns: Any,
) -> None:
    """Predict a table on a Ray cluster, and write a folder of Parquet files.

    The files are those of one process. A call that was ended is made again and continues.

    Args:
        model: as for :meth:`~epic_pl.Classifier.load`, where all nodes see it.
        table: a table or a folder of images that all nodes see.
        output: the folder, which all nodes see.
        actors: largest number of models at a time.
        gpus: of each, or a part of one.
        top_k: as for :meth:`~epic_pl.Classifier.predict_table`.
        batch_size: number of rows at a time; 64 batches are written at once.
        on_bad_sample: as for :meth:`~epic_pl.Classifier.predict_table`.
        **columns: ``image``, ``text``, ``id`` and ``image_root`` of that method.

    Raises:
        ConfigError: Ray is not installed.
        EpicError: as in that method.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"{__name__} needs {error.name}: pip install 'epic_pl[ray]'.") from error
    source = {"table": Path(table).resolve(), **columns}
    read_source(**source)  # mistakes are told before anything is started
    shards = [{"index": index, "count": _SHARDS * actors} for index in range(_SHARDS * actors)]
    named = str(Path(model).resolve()) if Path(model).exists() else str(model)  # or on a hub
    given = {"model": named, "source": source, "output": Path(output).resolve(), "top_k": top_k}
    given |= {"batch_size": batch_size, "on_bad_sample": on_bad_sample}
    ray.data.from_items(shards, override_num_blocks=len(shards)).map(
        Predictor,
        fn_constructor_kwargs=given,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
        num_gpus=gpus or None,
    ).take_all()
