"""The base of datasets whose rows are read from files: checked, cached and reported."""

from abc import abstractmethod
from dataclasses import replace
from typing import Any, get_args

import pyarrow.compute as pc
from lightning.pytorch.utilities import rank_zero_info

from epic_pl.data.datamodule import ImageTextDataModule, Split, check_choice
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.image_files import missing_images, refuse_outside
from epic_pl.data.row_cache import ImageRecord
from epic_pl.data.rows import BadSamplePolicy, Rows, apply_policy
from epic_pl.data.transforms import ImageTransform
from epic_pl.errors import DataError


class RowsDataModule(ImageTextDataModule):
    """A dataset of rows: a subclass names its classes and reads the rows of a split.

    Args:
        on_bad_sample: ``error``; ``skip`` (leave the row out and count it); ``absent`` (go on
            without the image). Missing files are found at the start under any of them, as are
            paths that lead out of the image root, which all of them refuse. Corrupt images are
            found when they are read under ``error``, and else at the start, by decoding each
            once: the cache records which are sound, and ``epic-pl data check`` finds out in
            parallel.
        **kwargs: as for :class:`~epic_pl.data.datamodule.ImageTextDataModule`.
    """

    def __init__(self, *, on_bad_sample: BadSamplePolicy = "error", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_choice(get_args(BadSamplePolicy), on_bad_sample=on_bad_sample)
        self.on_bad_sample = on_bad_sample

    @abstractmethod
    def read_split(self, split: Split) -> Rows:
        """The rows of a split; :func:`~epic_pl.data.row_cache.cached_rows` spares later starts."""

    @property
    def text_origin(self) -> str | None:
        """Which of the dataset's texts is used, for results that can be compared."""
        return None

    @property
    def preprocessing(self) -> dict[str, Any]:
        """As in the base, with the text's origin."""
        found = super().preprocessing
        if self.text_origin is None:
            return found
        return {**found, "text": {**found["text"], "source": self.text_origin}}

    def build_dataset(self, split: Split, transform: ImageTransform) -> ImageTextDataset:
        """The samples of a split, checked and reported.

        Raises:
            DataError: files are missing or broken, or labels are unknown outside of prediction.
        """
        rows = self.read_split(split)
        total, unknown = rows.table.num_rows, rows.table["label"].null_count
        if unknown and split != "predict":
            raise DataError(
                f"{rows.source} is the {split} split, but {unknown} of its {total} rows have no "
                "label. Choose a labelled file; unlabelled ones are for predict."
            )
        bad = self._bad_images(rows, transform)
        try:
            table, note = apply_policy(rows.table, bad, self.on_bad_sample, rows.image_root)
        except DataError as error:
            raise DataError(f"The {split} split of {rows.source}: {error}") from error
        notes = [f"{count:,} {words}" for words, count in rows.notes.items() if count]
        report = ", ".join([f"{total:,} rows of {rows.source}", *notes, *([note] if note else [])])
        rank_zero_info(f"{split}: {report}")
        return self._dataset(replace(rows, table=table), transform)

    def unverified_dataset(self, split: Split, transform: ImageTransform) -> ImageTextDataset:
        """The samples of a split whose images were not checked."""
        return self._dataset(self.read_split(split), transform)

    def _bad_images(self, rows: Rows, transform: ImageTransform) -> dict[str, str]:
        root, paths = rows.image_root, pc.unique(rows.table["image"]).drop_null().to_pylist()
        refuse_outside(paths, root, rows.source)
        bad = missing_images(paths, root)
        if self.on_bad_sample == "error":
            return bad
        dataset = self._dataset(rows, transform)
        there = [path for path in paths if path not in bad]
        return bad | ImageRecord(root).unreadable(there, dataset.read)

    def _dataset(self, rows: Rows, transform: ImageTransform) -> ImageTextDataset:
        return ImageTextDataset(rows.table, rows.image_root, transform, seed=self.seed)
