"""Reading of the tables that a classifier predicts or encodes, and writing of results by parts."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from rich.progress import track

from epic_pl.data.bulk_pass import BulkPass
from epic_pl.data.cells import ColumnPreprocessing
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.images import BadSamplePolicy, usable_rows
from epic_pl.data.processor import Processor
from epic_pl.data.rows import Rows
from epic_pl.data.tables.build import read_unlabelled, table_folder
from epic_pl.data.tables.columns import RowOptions
from epic_pl.data.tables.formats import is_image_folder
from epic_pl.utils.errors import DataError, EpicError, raised_as
from epic_pl.utils.share import ALL, Share
from epic_pl.utils.types import Batch
from epic_pl.utils.validate import check_at_least, check_word


def read_source(
    table: str | Path | pa.Table | Any,
    image: str | None = None,
    text: str | list[str] | None = None,
    id: str | None = None,
    image_root: str | Path | None = None,
    columns: ColumnPreprocessing = ColumnPreprocessing(),  # noqa: B008 frozen
) -> Rows:
    """Read the rows of a table or a folder of images, without checking them.

    Arguments are as in :meth:`~epic_pl.Classifier.predict_table`, and the model's ``columns``.

    Raises:
        DataError: if the table, or a row of it, cannot be used.
    """
    frame: Any = table
    if id is None and getattr(getattr(frame, "index", None), "is_unique", False):  # of pandas
        table, id = frame.assign(__id__=frame.index.map(str)), "__id__"
    way_out = "Give the cells of a column one type, as by df[NAME].astype('string')."
    with raised_as(DataError, "The table cannot be read", way_out, pa.ArrowException):
        source = Path(table) if isinstance(table, str | Path) else pa.table(table)
    if isinstance(source, Path) and not source.exists():
        raise DataError(f"{source} does not exist: give a table or a folder of images.")
    if image_root is None:
        image_root = table_folder(source) if isinstance(source, Path) else Path.cwd()
    options = RowOptions()  # options of a folder
    try:
        if not (isinstance(source, Path) and is_image_folder(source)):
            options = RowOptions(image, text, id_column=id, **columns.options)
        return read_unlabelled(source, Path(image_root).resolve(), options)
    except EpicError as error:  # its message names arguments of TableDataModule
        said = re.sub(r"(?<!['\w])(image|text|id)_columns?\b", r"\1", str(error))
        raise type(error)(said) from error


def checked_dataset(
    rows: Rows, on_bad_sample: BadSamplePolicy, processor: Processor
) -> ImageTextDataset:
    """The dataset of the usable rows of a table.

    Raises:
        ConfigError: if ``on_bad_sample`` is none of the three.
        DataError: if a row cannot be used.
    """
    check_word(get_args(BadSamplePolicy), on_bad_sample=on_bad_sample)
    table, note = usable_rows(rows, on_bad_sample, processor.transform.min_size)
    if note:
        rank_zero_info(note)
    return processor.dataset(table, rows.image_root)


def write_parts(
    rows: Rows,
    output: Path,
    processor: Processor,
    make: Callable[[Batch | None], pa.Table],
    model: str,
    *,
    batch_size: int = 32,
    share: Share = ALL,
    on_bad_sample: BadSamplePolicy = "error",
    num_workers: int = 0,
    title: str = "Predicting",
    **options: object,
) -> BulkPass:
    """Write a model's results for a table, a Parquet file for every 64 batches.

    If a call was killed, the same call continues with the first file that is missing.

    Args:
        rows: rows of the whole table, from :func:`read_source`.
        output: folder of the files.
        processor: processor that makes the batches.
        make: function that makes a table of a batch; of None, a table without rows.
        model: digest of the model and of how this device computes.
        batch_size: number of rows at a time.
        share: share of the parts that this process writes.
        on_bad_sample: ``error``, ``skip`` or ``absent``, for images that cannot be used.
        num_workers: number of processes that read images.
        title: title of the progress bar.
        **options: everything else that the files depend on.

    Returns:
        The pass, whose string says how many files there are.

    Raises:
        ConfigError: if an option is out of its range.
        DataError: if a row cannot be used, or the folder has files with other results.
    """
    check_at_least(1, batch_size=batch_size)
    check_word(get_args(BadSamplePolicy), on_bad_sample=on_bad_sample)
    bulk = BulkPass(output, rows, batch_size, share, on_bad_sample, model, **options)
    usable, note = bulk.check(processor.transform.min_size, make(None))
    if note:
        rank_zero_info(note)
    dataset = processor.dataset(usable.table, usable.image_root)
    loader = bulk.loader(dataset, processor.collate, num_workers=num_workers)
    for batch in track(loader, title, console=Console(stderr=True), disable=len(loader) < 2):
        bulk.add(make(batch))
    return bulk
