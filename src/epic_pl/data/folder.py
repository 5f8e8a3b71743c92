"""The base of datasets that lie in a folder of the user's: rows to a checked, reported split."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from lightning.pytorch.utilities import rank_zero_info

from epic_pl.data.datamodule import ImageTextDataModule, Split
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.layout import check_pictures, refuse_outside
from epic_pl.data.picture_record import PictureRecord
from epic_pl.data.row_cache import KeptRows, Origin, RowFacts
from epic_pl.data.tables.dataset import sample_table
from epic_pl.data.tables.pictures import (
    BadSamplePolicy,
    apply_policy,
    check_policy,
    distinct_paths,
)
from epic_pl.data.transforms import ImageTransform
from epic_pl.errors import DataError


@dataclass(frozen=True)
class SplitRows:
    """The rows of a split as read.

    Columns are as :func:`~epic_pl.data.tables.dataset.sample_table` takes them.

    Attributes:
        source: the file they were read from.
        sample_ids: of each row, unique.
        images: path of each row's picture below ``image_root``, or None.
        texts: of each row, or None.
        labels: class index (or list of them) of each row, or None.
        image_root: folder of the pictures.
        notes: what else to report, as words and the number of rows that they hold for.
    """

    source: Path
    sample_ids: Sequence[str]
    images: Sequence[str | None]
    texts: Sequence[str | None]
    labels: Sequence[Any]
    image_root: Path
    notes: Mapping[str, int] = field(default_factory=dict)


class FolderDataModule(ImageTextDataModule):
    """A dataset in a folder: a subclass finds its files and reads a split, no more.

    What was read is kept in the cache as a table, if the subclass says what it was read from.

    Args:
        data_dir: folder of the dataset.
        on_bad_sample: ``error``; ``skip`` (leave the row out and count it); ``absent`` (go on
            without the picture). Missing files are found at the start under any of them, as are
            paths that lead out of the folder, which all of them refuse; corrupt
            pictures when they are read under ``error``, and else before, by decoding each once:
            what was found is kept in the cache, and ``epic-pl data check`` does it in parallel.
        **kwargs: as for :class:`~epic_pl.data.datamodule.ImageTextDataModule`.

    Raises:
        ConfigError: options out of range.
    """

    def __init__(
        self, *, data_dir: str, on_bad_sample: BadSamplePolicy = "error", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_policy(on_bad_sample)
        self.data_dir = data_dir
        self.on_bad_sample = on_bad_sample
        self._unverified: list[ImageTextDataset] = []

    @property
    @abstractmethod
    def text_origin(self) -> str:
        """Which of the dataset's texts is used, for results that can be compared."""

    @abstractmethod
    def read_split(self, split: Split) -> SplitRows:
        """The rows of a split.

        Raises:
            DataError: files are missing or broken.
        """

    def row_origin(self, split: Split) -> Origin | None:
        """All that decides on what :meth:`read_split` gives; None has it called at every start.

        A subclass that reads otherwise says so by its own: that of another class is not asked.

        Raises:
            DataError: files are missing.
        """
        return None

    def kept(self, split: Split) -> KeptRows | None:
        """Where the rows of a split are kept for later starts, and found if they are."""
        reader, describer = (
            next(each for each in type(self).__mro__ if name in vars(each))
            for name in ("read_split", "row_origin")
        )
        if reader is not describer:
            return None
        try:
            origin = self.row_origin(split)
            return None if origin is None else KeptRows(f"{type(self).__name__}-{split}", origin)
        except OSError:  # a file is gone: reading says it better
            return None

    @property
    def preprocessing(self) -> dict[str, Any]:
        """As in the base, with the text's origin."""
        found = super().preprocessing
        return {**found, "text": {**found["text"], "source": self.text_origin}}

    def build_dataset(self, split: Split, transform: ImageTransform) -> ImageTextDataset:
        """The samples of a split, checked and reported.

        Raises:
            DataError: files are missing or broken, or labels are unknown outside of prediction.
        """
        table, rows = self._rows(split)
        unknown = table["label"].null_count
        if unknown and split != "predict":
            raise DataError(
                f"{rows.source} is the {split} split, but {unknown} of its {table.num_rows} rows "
                "have no label. Choose a labelled file; unlabelled ones are for predict."
            )
        total = table.num_rows
        table, fate = self._verify(table, rows, split, transform)
        notes = "".join(f", {count:,} {words}" for words, count in rows.notes.items() if count)
        rank_zero_info(f"{split}: {total:,} rows of {rows.source}{notes}{fate}")
        return self.make_dataset(table, rows.image_root, transform)

    def _rows(self, split: Split) -> tuple[pa.Table, RowFacts]:
        """The checked rows of a split, from the cache where its files are as they were."""
        kept = self.kept(split)
        found = None if kept is None else kept.read()
        if found is not None:
            return found
        rows = self.read_split(split)
        table = sample_table(
            rows.sample_ids,
            rows.images,
            rows.texts,
            rows.labels,
            self.task == "multilabel",
            num_classes=self.num_classes,
        )
        facts = RowFacts(rows.source, rows.image_root, rows.notes, self.class_names)
        if kept is not None:
            kept.write(table, facts)
        return table, facts

    def _verify(
        self, table: pa.Table, rows: RowFacts, split: Split, transform: ImageTransform
    ) -> tuple[pa.Table, str]:
        """The rows that can be used, and what to report of the others."""
        root, paths = rows.image_root, distinct_paths(table)
        files = root.is_dir()  # or arrays of one file
        if files:
            refuse_outside(root, paths, rows.source)
        if self.on_bad_sample == "error":
            if files:
                check_pictures(root, paths, split)
            return table, ""
        record = PictureRecord(type(self).__name__, root)
        if files:
            bad = record.bad_pictures(paths, transform.min_size)
        else:
            dataset = self.make_dataset(table, root, transform)
            bad = record.bad_arrays(paths, lambda path: dataset._read(path, path))
        table, note = apply_policy(table, bad, self.on_bad_sample, root)
        return table, f", {note}" if note else ""

    def unverified_dataset(self, split: Split, transform: ImageTransform) -> ImageTextDataset:
        """The samples of a split without a look at their pictures.

        Raises:
            DataError: annotation files are missing or broken.
        """
        table, rows = self._rows(split)
        dataset = self.make_dataset(table, rows.image_root, transform)
        self._unverified.append(dataset)
        return dataset

    def write_manifest(self, bad: Mapping[str, str]) -> Path:
        """Keep how decoding went for later starts, once all pictures were read.

        Args:
            bad: picture path (as in the annotation files) to what is wrong with it.

        Returns:
            Where it lies.

        Raises:
            DataError: the cache cannot be written, or no split was looked at.
        """
        for dataset in self._unverified:
            record = PictureRecord(type(self).__name__, dataset.image_root)
            record.add(distinct_paths(dataset.table), bad)
        if not self._unverified:
            raise DataError("Nothing was looked at: call unverified_dataset first.")
        return record.path

    def make_dataset(
        self, table: pa.Table, root: Path, transform: ImageTransform
    ) -> ImageTextDataset:
        """The dataset of a checked table; a hook for pictures that are no files."""
        return ImageTextDataset(table, root, transform, seed=self.seed)
