"""``epic-pl embed``."""

from itertools import chain, islice
from pathlib import Path
from typing import Literal

from epic_pl.commands.parser import NonNegativeInt

_BATCHES = 64  # written at once, as a row group


def embed(
    model: Path,
    source: Path,
    output: Path = Path("runs/embeddings.parquet"),
    image: str | None = None,
    text: str | None = None,
    id: str | None = None,
    on_bad_sample: Literal["error", "skip", "absent"] = "error",
    workers: NonNegativeInt = 0,
) -> None:
    """Write the encoders' pooled features of each row of a table, or of all images in a folder.

    The Parquet file has the columns sample_id, image and text; the last two are lists of float32
    numbers, null where the modality is missing.

    Args:
        model: a run, a checkpoint, or a saved model.
        source: a table, or a folder, whose columns need no names.
        output: the file.
        image: column of image paths, or a template.
        text: column of texts, or a template.
        id: column of unique names (the row's number).
        on_bad_sample: what to do about an image that cannot be read.
        workers: processes that read images (0 is this process).

    Raises:
        EpicError: with a message for the user.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from epic_pl.classifier import Classifier
    from epic_pl.errors import DataError, counted
    from epic_pl.files import replacing
    from epic_pl.validate import check_writable

    check_writable("--output", output.parent, output.name)
    tables = Classifier.load(model).embed_table(
        source, image=image, text=text, id=id, on_bad_sample=on_bad_sample, num_workers=workers
    )
    first = next(tables, None)
    if first is None:
        raise DataError(f"No row of {source} can be used.")
    rows, tables = 0, chain([first], tables)
    with replacing(output) as partial, pq.ParquetWriter(partial, first.schema) as writer:
        while group := list(islice(tables, _BATCHES)):
            writer.write_table(pa.concat_tables(group))
            rows += sum(map(len, group))
    widths = [f"{first.schema.field(name).type.list_size} of {name}" for name in ("image", "text")]
    print(f"{counted(rows, 'rows')} with {' and '.join(widths)} written to {output}")
