"""Rows of a DataModule's splits for a data check, and the record of a check for later starts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
from PIL.Image import Image
from torch.utils.data import Dataset

from epic_pl.data.clean_text import clean_texts
from epic_pl.data.datamodule import ImageTextDataModule, Split
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.datasets.entailment import EntailmentPairs
from epic_pl.data.transforms import ImageTransform, build_image_transform
from epic_pl.errors import DataError


@runtime_checkable
class Verifiable(Protocol):
    """A DataModule that can leave verifying pictures to a check, and records its result."""

    on_bad_sample: str

    def unverified_dataset(self, split: Split, transform: ImageTransform) -> ImageTextDataset:
        """Samples of a split whose pictures were not verified."""

    def write_manifest(self, bad: Mapping[str, str]) -> Path:
        """Record the verified rows.

        ``bad`` holds the problem of a picture, under its path in the rows and its full path.
        """


@runtime_checkable
class _Forgetful(Protocol):
    def remove_manifest(self) -> None:
        """Have later starts verify again."""


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
    if isinstance(data, Verifiable):
        dataset = data.unverified_dataset(split, transform)
    else:
        dataset = data.build_dataset(split, transform)
    if data.clean_text:
        clean_texts(dataset)
    return _source(dataset)


def _source(dataset: Dataset[Any]) -> SplitSource:
    if isinstance(dataset, ImageTextDataset):
        own = type(dataset)._read is not ImageTextDataset._read
        read = partial(dataset._read, "") if own else None
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
    data: ImageTextDataModule,
    decoded: Sequence[tuple[SplitSource, Mapping[str, str]]],
    can_train: bool,
) -> str | None:
    """Record a check without errors for later starts, else remove the record of an earlier one.

    ``decoded`` holds the problem of each picture of a split by its path, empty for a sound one.
    Returns a note for the report, if anything was recorded.
    """
    if can_train and isinstance(data, Verifiable):
        bad = {
            key: problem
            for source, problems in decoded
            for path, problem in problems.items()
            for key in (path, str(source.image_root / path))
            if problem
        }
        return f"Later runs start from the manifest {data.write_manifest(bad)}"
    if isinstance(data, _Forgetful):
        data.remove_manifest()
    return None
