"""The DataModule for a user's own table of images, texts and labels."""

import os
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from lightning.pytorch.utilities import rank_zero_warn

from epic_pl.data.cells import ColumnPreprocessing
from epic_pl.data.datamodule import ImageTextDataModule, Split
from epic_pl.data.row_cache import cached_rows
from epic_pl.data.rows import Rows, learn_columns, table_schema
from epic_pl.data.tables.build import build_rows, read_rows, read_unlabelled, table_folder
from epic_pl.data.tables.columns import RowOptions
from epic_pl.data.tables.formats import source_files
from epic_pl.utils.types import Task
from epic_pl.utils.validate import check_at_least


class TableDataModule(ImageTextDataModule):
    """Data from a CSV, TSV, JSONL, JSON or Parquet table, class folders, or a saved dataset.

    An empty image or text cell means that the modality is missing. An error names the rows with
    labels that are missing, NaN, or unknown in training, with repeated ids, unknown split names or
    missing images.

    One process of a machine reads the table and unpacks its images. The checked rows are cached
    until the table's files or the options change.

    Args:
        table: a file; a folder that ``save_to_disk`` of Hugging Face ``datasets`` wrote (with the
            splits of a ``DatasetDict``); or a folder of ``CLASS/IMAGE`` or ``SPLIT/CLASS/IMAGE``,
            with the columns ``image``, ``label`` and, from ``.txt`` files beside the images or from
            ``metadata.csv``, ``metadata.jsonl`` or ``captions.csv``, ``text``.
        image_column: image paths, a template of them such as ``"photos/{id}.jpg"``, or embedded
            images (bytes, or an ``Image`` feature of Hugging Face ``datasets``), which are unpacked
            to the cache; None if there are no images.
        text_columns: a column, several (joined by a space), or a template such as
            ``"{title}. {description}"``; None if there are no texts.
        label_column: one class per row. Lists, or strings that spell lists, make the task
            multilabel.
        label_separator: separator such as ``|`` of several labels in a cell, which makes the task
            multilabel; no class applies to a row with an empty cell.
        split_column: train, val (valid, validation, dev), test or predict for each row. Splits that
            it does not name are taken from the training rows; without the column, all are.
        id_column: unique name of each row; None is the row number from 0.
        classes: class names in order; None is alphabetical or numerical order.
        image_root: folder that image paths are relative to, also those of ``predict_table``; None
            is the folder of their table.
        val_size: number (int) or share (float) of training rows that become the validation split,
            if the table names none; 0 for no validation, if nothing is trained.
        test_size: the same for the test split. Both are stratified. All rows of an image, or of a
            text without an image, are in one split.
        split_seed: seed of these splits, apart from ``seed``, so that runs share their test rows.
        columns: columns that each batch has under their own names, for a loss, method or callback
            of your own: a float tensor ``(B,)`` if every cell with content is a number, else a list
            of B strings, None for an absent one. All tables need them.
        number_columns: columns of numbers that the model reads, such as a price. An empty cell is a
            missing value. For their features, and those of the next two, see
            :class:`~epic_pl.data.cells.ColumnPreprocessing`.
        category_columns: columns of categories that the model reads, such as a brand.
        date_columns: columns of dates that the model reads; with the format of each, as in
            ``{released: "%d.%m.%Y"}``, unless there is one that reads all cells.
        predict_table: a table for ``predict``, without labels but with the same columns; or a
            folder, whose images are named by their paths in it and may have a ``.txt`` file beside
            them as text. With ``classes``, ``predict`` does not need ``table``.
        **kwargs: arguments of :class:`~epic_pl.data.datamodule.ImageTextDataModule`.

    Example:
        >>> encoders = {"image_encoder": "tiny-vit", "text_encoder": "tiny-bert"}
        >>> data = TableDataModule(table="table.csv", split_column="split", **encoders)
        >>> data.setup("fit")
        >>> data.class_names, len(data.dataset("train"))
        (['blue', 'green', 'red'], 12)
        >>> next(iter(data.train_dataloader()))["pixel_values"].shape  # (B, 3, H, W)
        torch.Size([12, 3, 32, 32])
    """

    def __init__(
        self,
        *,
        table: str,
        image_column: str | None = "image",
        text_columns: list[str] | str | None = "text",
        label_column: str = "label",
        label_separator: str | None = None,
        split_column: str | None = None,
        id_column: str | None = None,
        classes: list[str] | None = None,
        image_root: str | None = None,
        val_size: int | float = 0.1,
        test_size: int | float = 0.1,
        split_seed: int = 0,
        columns: list[str] | None = None,
        number_columns: list[str] | None = None,
        category_columns: list[str] | None = None,
        date_columns: list[str] | dict[str, str] | None = None,
        predict_table: str | None = None,
        **kwargs: Any,
    ) -> None:
        given = locals()
        super().__init__(**kwargs)
        check_at_least(0, split_seed=split_seed)
        self.path = Path(table)
        self.name = "/".join(self.path.resolve().parts[-2:])
        self.predict_path = None if predict_table is None else Path(predict_table)
        self.image_root = None if image_root is None else Path(image_root).resolve()
        self.options = RowOptions(**{each.name: given[each.name] for each in fields(RowOptions)})
        self._rows = self._all_rows()
        if label_separator and pc.max(pc.list_value_length(self._rows.table["label"])).as_py() == 1:
            problem = f"No row has several labels: is label_separator {label_separator!r} right?"
            rank_zero_warn(problem)
        labelled_predict = pc.any(pc.equal(self._rows.table["split"], "predict")).as_py()
        if predict_table is not None or labelled_predict:
            self.predict_split = "predict"

    def _all_rows(self) -> Rows:
        # rows to predict and classes need no other table
        needless = self.predict_path is not None and bool(self.options.classes)
        if needless and not os.path.exists(self.path):
            schema = table_schema(multilabel=self.options.label_separator is not None)
            empty = schema.append(pa.field("split", pa.string())).empty_table()
            return Rows(empty, Path(), self.path, self.options.classes or ())
        return self._read(self.path, "labelled", partial(read_rows, build=build_rows))

    def _read(self, path: Path, kind: str, read: Callable[[Path, Path, RowOptions], Rows]) -> Rows:
        root = self.image_root or table_folder(path)
        options = {**asdict(self.options), "kind": kind, "image_root": str(root)}
        reader = partial(read, path, root, self.options)
        return cached_rows(path.stem, source_files(path), options, reader)

    @property
    def class_names(self) -> list[str]:
        """Class names in the order of their indices."""
        return list(self._rows.classes)

    @property
    def task(self) -> Task:
        """``multilabel`` if labels are lists, else ``multiclass``."""
        label = self._rows.table.schema.field("label").type
        return "multilabel" if pa.types.is_list(label) else "multiclass"

    @cached_property
    def column_preprocessing(self) -> ColumnPreprocessing:
        """What the training rows tell of the columns that the options name."""
        rows = self._rows.table
        if "cells" not in rows.column_names:
            return ColumnPreprocessing()
        return learn_columns(rows.filter(pc.equal(rows["split"], "train"))["cells"])

    def read_split(self, split: Split) -> Rows:
        """The rows of a split."""
        rows = self._rows
        if split == "predict" and self.predict_path is not None:
            read = partial(read_unlabelled, multilabel=self.task == "multilabel")
            rows = self._read(self.predict_path, f"predict {self.task}", read)
        elif not rows.table.num_rows:
            source_files(self.path)  # raises the error that there is no table
        # rows are ordered by split, so that a split is a slice of the memory map, without a copy
        start = pc.index(rows.table["split"], split).as_py()
        count = pc.sum(pc.equal(rows.table["split"], split)).as_py() or 0
        return replace(rows, table=rows.table.slice(max(start, 0), count).drop_columns(["split"]))
