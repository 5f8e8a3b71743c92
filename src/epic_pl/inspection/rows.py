"""Rows of a DataModule's splits for a data check, and the record of a check for later starts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL.Image import Image
from torch.utils.data import Dataset

from epic_pl.data.clean_text import clean_texts
from epic_pl.data.datamodule import ImageTextDataModule, Split
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.datasets.entailment import EntailmentPairs
from epic_pl.data.pictures import PictureRecord
from epic_pl.data.rows_datamodule import RowsDataModule
from epic_pl.data.transforms import build_image_transform
from epic_pl.errors import DataError


@dataclass(frozen=True)
class SplitSource:
    """Rows of a split and the place of their pictures.

    Attributes:
        table: columns ``sample_id, image, text, label``.
        image_root: where picture paths start.
        read: reads a picture that is no file of its own.
    """

    table: pa.Table
    image_root: Path
    read: Callable[[str], Image] | None = None

    def full_path(self, path: str | None) -> str | None:
        """Full path of a picture that is a file of its own."""
        return None if path is None or self.read else str(self.image_root / path)


def split_source(data: ImageTextDataModule, split: Split) -> SplitSource:
    """Rows of a split; where samples are drawn anew each epoch, those of the first one.

    Raises:
        DataError: the split cannot be built.
    """
    transform = build_image_transform(data.image_preprocessing, train=False)
    dataset: Dataset[Any]
    if isinstance(data, RowsDataModule):
        dataset = data.unverified_dataset(split, transform)
    else:
        dataset = data.build_dataset(split, transform)
    if data.clean_text:
        clean_texts(dataset)
    return _source(dataset)


def _source(dataset: Dataset[Any]) -> SplitSource:
    if isinstance(dataset, ImageTextDataset):
        read = None if type(dataset).read is ImageTextDataset.read else dataset.read
        return SplitSource(dataset.table, dataset.image_root, read)
    if isinstance(dataset, EntailmentPairs):
        pictures = _source(dataset.pictures)
        texts, labels = zip(*map(dataset.pair, range(len(dataset))), strict=True)
        rows = pictures.table.take([i // dataset.pairs_per_picture for i in range(len(dataset))])
        columns = (rows["sample_id"], rows["image"], pa.array(texts), pa.array(labels))
        return replace(pictures, table=pa.table(columns, names=rows.column_names))
    raise DataError(
        f"A {type(dataset).__name__} cannot be checked: let build_dataset return an "
        "ImageTextDataset."
    )


def record_result(
    data: ImageTextDataModule, decoded: Sequence[tuple[SplitSource, Mapping[str, str]]]
) -> str | None:
    """Record which pictures were decoded, so that later starts need not decode them.

    ``decoded`` holds the problem of each picture of a split by its path, empty for a sound one.
    Returns a note for the report, if anything was recorded.
    """
    if not isinstance(data, RowsDataModule):
        return None
    paths = []
    for source, problems in decoded:
        record = PictureRecord(source.image_root)
        record.add(problems, {path: problem for path, problem in problems.items() if problem})
        paths.append(str(record.path))
    return f"Later runs know from {', '.join(dict.fromkeys(paths))} which pictures are sound"
