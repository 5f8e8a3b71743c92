"""The base of datasets that lie in a folder of the user's: rows to a checked, reported split."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from lightning.pytorch.utilities import rank_zero_info

from epic_pl.data.datamodule import ImageTextDataModule, Split
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.layout import check_pictures
from epic_pl.data.table import sample_table
from epic_pl.data.transforms import ImageTransform
from epic_pl.errors import DataError


@dataclass(frozen=True)
class SplitRows:
    """The rows of a split as read; columns as :func:`~epic_pl.data.table.sample_table` takes them.

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

    Args:
        data_dir: folder of the dataset.
        **kwargs: as for :class:`~epic_pl.data.datamodule.ImageTextDataModule`.

    Raises:
        ConfigError: options out of range.
    """

    def __init__(self, *, data_dir: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data_dir = data_dir

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
        rows = self.read_split(split)
        table = sample_table(
            rows.sample_ids,
            rows.images,
            rows.texts,
            rows.labels,
            self.task == "multilabel",
            num_classes=self.num_classes,
        )
        unknown = table["label"].null_count
        if unknown and split != "predict":
            raise DataError(
                f"{rows.source} is the {split} split, but {unknown} of its {table.num_rows} rows "
                "have no label. Choose a labelled file; unlabelled ones are for predict."
            )
        if rows.image_root.is_dir():
            check_pictures(rows.image_root, pc.unique(table["image"]).to_pylist(), split)
        notes = "".join(f", {count:,} {words}" for words, count in rows.notes.items() if count)
        rank_zero_info(f"{split}: {table.num_rows:,} rows of {rows.source}{notes}")
        return self.make_dataset(table, rows.image_root, transform)

    def make_dataset(
        self, table: pa.Table, root: Path, transform: ImageTransform
    ) -> ImageTextDataset:
        """The dataset of a checked table; a hook for pictures that are no files."""
        return ImageTextDataset(table, root, transform, seed=self.seed)
