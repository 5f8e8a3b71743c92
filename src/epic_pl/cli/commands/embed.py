"""``epic-pl embed``."""

from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from epic_pl.cli.commands.parser import NonNegativeInt

_BATCH_SIZE = 32


def embed(
    model: str,
    source: Path,
    output: Path = Path("runs/embeddings"),
    image: str | None = None,
    text: str | None = None,
    id: str | None = None,
    image_root: Path | None = None,
    on_bad_sample: Literal["error", "skip", "absent"] | None = None,
    workers: NonNegativeInt = 0,
    shard: str | None = None,
) -> None:
    """Write the encoders' pooled features of each row of a table, or of all images in a folder.

    The output is a folder of Parquet files with the columns sample_id, image and text; the last two
    are lists of float32 numbers, null where the modality is missing. After a kill, the same command
    continues with the first missing file. Processes of torchrun and SLURM share the work.

    Args:
        model: a run, a checkpoint, a saved model, or a hub's user/name.
        source: a table, or a folder of images, which needs no columns.
        output: folder of the files.
        image: column of image paths, or a template.
        text: column of texts, or a template.
        id: column of unique names (the row's number).
        image_root: folder of relative image paths (the table's folder).
        on_bad_sample: what to do about an image that cannot be read, or an empty row (what the
            run did; error if its config.yaml is not at hand).
        workers: number of processes that read images (0 is this process).
        shard: part of the rows as i/n, such as 3/8, for jobs that do not wait for each other (all).

    Raises:
        EpicError: if the model or the table cannot be used.
    """
    import torch
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    from epic_pl.inference.bulk import read_source, write_parts
    from epic_pl.inference.classifier import Classifier
    from epic_pl.inference.sharing import find_model
    from epic_pl.utils.config_files import read_yaml
    from epic_pl.utils.errors import EpicError
    from epic_pl.utils.share import Share
    from epic_pl.utils.validate import check_writable

    launchers = (TorchElasticEnvironment, SLURMEnvironment)
    cluster = next((launcher() for launcher in launchers if launcher.detect()), None)
    share = Share.of(shard, *(cluster.global_rank(), cluster.world_size()) if cluster else ())
    check_writable("--output", output, "part")
    if cluster and torch.accelerator.is_available():
        torch.accelerator.set_device_index(cluster.local_rank() % torch.accelerator.device_count())
    rows, clf = read_source(source, image, text, id, image_root), Classifier.load(model)
    if on_bad_sample is None:
        with suppress(EpicError, LookupError, TypeError):
            config: Any = read_yaml(str(find_model(model).parents[1] / "config.yaml"))
            on_bad_sample = config["data"]["init_args"]["on_bad_sample"]
    options: Any = {"share": share, "on_bad_sample": on_bad_sample or "error"}
    options |= {"num_workers": workers}
    options |= {"batch_size": _BATCH_SIZE, "title": "Encoding"}
    print(write_parts(rows, output, clf.processor, clf.feature_table, clf.digest, **options))
