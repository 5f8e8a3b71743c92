"""The rows of a DataModule's splits, as a check reads them."""

from collections.abc import Callable
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
from epic_pl.data.rows_datamodule import RowsDataModule
from epic_pl.data.transforms import build_image_transform
from epic_pl.errors import DataError


def splits_of(data: ImageTextDataModule) -> list[Split]:
    """The splits that a check reads: those with rows of their own."""
    return data.own_splits


@dataclass(frozen=True)
class SplitSource:
    """The rows of a split and where their pictures are.

    Attributes:
        table: columns ``sample_id, image, text, label``.
        image_root: where picture paths start.
        read: reads a picture, where it is no file of its own.
    """

    table: pa.Table
    image_root: Path
    read: Callable[[str], Image] | None = None


def split_source(data: ImageTextDataModule, split: Split) -> SplitSource:
    """The rows of a split; of one whose samples are drawn anew, those of the first epoch.

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
        of = _source(dataset.pictures)
        texts, labels = zip(*map(dataset.pair, range(len(dataset))), strict=True)
        rows = of.table.take([i // dataset.pairs_per_picture for i in range(len(dataset))])
        columns = (rows["sample_id"], rows["image"], pa.array(texts), pa.array(labels))
        return replace(of, table=pa.table(columns, names=rows.column_names))
    raise DataError(
        f"A {type(dataset).__name__} cannot be checked: let build_dataset return an "
        "ImageTextDataset."
    )
