"""Anyone's own table of pictures, texts and labels as a DataModule."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from lightning.pytorch.utilities import rank_zero_info

from epic_pl.data.collate import Task
from epic_pl.data.datamodule import ImageTextDataModule, Split
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.manifest import manifest_path, read_manifest, write_manifest
from epic_pl.data.tables.embedded import embedded_folder, unpack_pictures
from epic_pl.data.tables.pictures import (
    BadSamplePolicy,
    apply_policy,
    check_policy,
    distinct_paths,
    missing_pictures,
    refuse_outside,
    unreadable_pictures,
)
from epic_pl.data.tables.reader import read_table, source_files
from epic_pl.data.tables.rows import RowOptions, build_rows, no_rows, unlabelled_rows
from epic_pl.data.transforms import ImageTransform
from epic_pl.errors import ConfigError, DataError

# raised whenever a table's rows come to be read in another way, so that no older manifest is met
_ROWS_VERSION = 5
_ROW = re.compile(r"\brows? [0-9]")


class TableDataModule(ImageTextDataModule):
    """A CSV, TSV, JSONL, JSON or Parquet table, or a Hugging Face dataset saved on disk.

    An empty cell for picture or text means that the modality is absent. All else that training
    would stumble over is refused with its rows: labels that are missing, NaN, padded with blanks or
    unknown in training, repeated ids, unknown split names, and pictures that are not there.

    After ``epic-pl data check`` the rows come from a memory-mapped manifest, as long as the table's
    files and the options are as they were, and no later check has found that training cannot start.

    Args:
        table: the file, or the folder of ``save_to_disk`` (a ``DatasetDict`` brings its splits).
        image_column: paths of pictures, or a template of them such as ``"photos/{id}.jpg"``, or the
            pictures themselves (an ``Image`` feature of Hugging Face ``datasets``), which are laid
            out as files in the cache; None for a table without.
        text_columns: a column, several (joined by a space), a template such as
            ``"{title}. {description}"``, or None for a table without.
        label_column: one class a row; a column of lists, or of strings that spell lists out, makes
            the task multilabel.
        label_separator: such as ``|``: cells hold several labels, and the task is multilabel. An
            empty cell is then a row to which no class applies.
        split_column: names train, val (valid, validation, dev), test or predict in each row. A
            split that it never names is cut off train, as all are without the column.
        id_column: what tells rows apart; None is the row's number, from 0.
        classes: their order; None is alphabetical, or by number.
        image_root: where relative picture paths start, those of ``predict_table`` too; None is the
            folder of the table that names them.
        allow_outside: whether a picture may lie outside of ``image_root``.
        val_size: rows (int) or share (float) of a validation split that is cut off; 0 for none,
            where nothing is trained.
        test_size: likewise. Cut splits are stratified (iteratively for multilabel), and the rows of
            one picture, or without one those of one text, stay together.
        split_seed: of the cut; apart from ``seed``, so that runs share their test set.
        on_bad_sample: ``error``; ``skip`` (leave the row out and count it); ``absent`` (go on
            without the picture). Missing files are found at the start under any of them, with a
            manifest too; corrupt pictures when they are read under ``error``, and else before, by
            reading all of them, as ``epic-pl data check`` does once for all.
        predict_table: a table without labels that ``predict`` reads, with the same columns. With
            ``classes`` it is all that ``predict`` needs: ``table`` may then be elsewhere.
        **kwargs: as for :class:`~epic_pl.data.datamodule.ImageTextDataModule`.

    Raises:
        ConfigError: options out of range.
        DataError: the table cannot be read, or its rows cannot be trained on.
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
        allow_outside: bool = False,
        val_size: int | float = 0.1,
        test_size: int | float = 0.1,
        split_seed: int = 0,
        on_bad_sample: BadSamplePolicy = "error",
        predict_table: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_policy(on_bad_sample)
        if image_column is None and not text_columns:
            raise ConfigError("image_column and text_columns are both empty: name one of them.")
        _check_classes(classes)
        if split_seed < 0:
            raise ConfigError(f"split_seed must be at least 0, got {split_seed}.")
        self.path = Path(table)
        self.predict_path = None if predict_table is None else Path(predict_table)
        self._given_root = None if image_root is None else Path(image_root).resolve()
        self.image_root = self._given_root or _folder(self.path)
        self.allow_outside = allow_outside
        self.on_bad_sample = on_bad_sample
        self.options = RowOptions(
            image_column=image_column,
            text_columns=text_columns,
            label_column=label_column,
            label_separator=label_separator,
            split_column=split_column,
            id_column=id_column,
            classes=classes,
            val_size=val_size,
            test_size=test_size,
            split_seed=split_seed,
        )
        self._predict: tuple[pa.Table, Path] | None = None
        self._rows, self._classes, self._verified = self._load()
        labelled_predict = pc.any(pc.equal(self._rows["split"], "predict")).as_py()
        if predict_table is not None or labelled_predict:
            self.predict_split = "predict"

    @cached_property
    def manifest(self) -> Path:
        """Where the manifest lies once it is written."""
        options = {
            "version": _ROWS_VERSION,
            **asdict(self.options),
            "image_root": str(self.image_root),
            "allow_outside": self.allow_outside,
            "on_bad_sample": self.on_bad_sample,
        }
        return manifest_path(self.path.stem, source_files(self.path), options)

    @cached_property
    def _is_elsewhere(self) -> bool:
        """Whether nothing but rows to predict is at hand, and what they may be is known."""
        known = self.predict_path is not None and bool(self.options.classes)
        return known and not self.path.exists()

    def _load(self) -> tuple[pa.Table, list[str], bool]:
        """Rows, classes, and whether pictures are verified: from the manifest, else the table."""
        if self._is_elsewhere:
            return no_rows(self.options), list(self.options.classes or []), False
        kept = read_manifest(self.manifest)
        if kept is not None and kept[1].get("embedded"):
            self.image_root = embedded_folder()
            kept = kept if self.image_root.is_dir() else None  # the cache may have been emptied
        if kept is not None:
            note = f" ({kept[1]['note']})" if kept[1]["note"] else ""
            rank_zero_info(f"{self.path.name}: checked rows from {self.manifest}{note}")
            return kept[0], kept[1]["classes"], True
        return *self._read(), False

    def _read(self) -> tuple[pa.Table, list[str]]:
        try:
            source, embedded = unpack_pictures(read_table(self.path), self.options.image_column)
            self.image_root = embedded or self.image_root
            return build_rows(source, self.options, self.path.is_dir())
        except DataError as error:
            raise _located(self.path, error) from error

    @cached_property
    def _all_rows(self) -> pa.Table:
        """Rows as the table has them: those of a manifest lack what was bad when it was written."""
        return self._read()[0] if self._verified else self._rows

    @property
    def class_names(self) -> list[str]:
        """Classes in the order of their indices."""
        return list(self._classes)

    @property
    def task(self) -> Task:
        """Multilabel if labels are lists."""
        return (
            "multilabel"
            if pa.types.is_list(self._rows.schema.field("label").type)
            else ("multiclass")
        )

    def rows(self, split: Split) -> pa.Table:
        """Columns ``sample_id, image, text, label`` of a split, as :func:`table_schema` says.

        Raises:
            DataError: the prediction table cannot be read.
        """
        return self._split(self._rows, split)

    def _root(self, split: Split) -> Path:
        """Where the picture paths of a split start."""
        if split == "predict" and self.predict_path is not None:
            return self._predict_table(self.predict_path)[1]
        return self.image_root

    def _predict_table(self, path: Path) -> tuple[pa.Table, Path]:
        """Rows of the prediction table, and where its picture paths start."""
        if self._predict is None:
            try:
                source, embedded = unpack_pictures(read_table(path), self.options.image_column)
                rows = unlabelled_rows(source, self.options, self.task == "multilabel")
            except DataError as error:
                raise _located(path, error) from error
            self._predict = rows, embedded or self._given_root or _folder(path)
        return self._predict

    def _split(self, rows: pa.Table, split: Split) -> pa.Table:
        if split == "predict" and self.predict_path is not None:
            table = self._predict_table(self.predict_path)[0]
        else:
            if self._is_elsewhere:
                source_files(self.path)  # it says that there is none
            # ordered by split, so that a split is a slice: no copy of a memory-mapped table
            start = pc.index(rows["split"], split).as_py()
            count = pc.sum(pc.equal(rows["split"], split)).as_py() or 0
            table = rows.slice(max(start, 0), count)
        return table.drop_columns(["split"])

    def unverified_dataset(self, split: Split, transform: ImageTransform) -> ImageTextDataset:
        """The samples of a split as the table has them, without a look at their pictures.

        Raises:
            DataError: a table cannot be read.
        """
        return self._dataset(self._split(self._all_rows, split), split, transform)

    def build_dataset(self, split: Split, transform: ImageTransform) -> ImageTextDataset:
        """The samples of a split.

        Raises:
            DataError: pictures are missing or lie outside of the image root.
        """
        return self._dataset(self._usable(split, transform), split, transform)

    def _usable(self, split: Split, transform: ImageTransform) -> pa.Table:
        """Rows of a split, the policy for bad pictures applied.

        A manifest spares decoding. Whether files are there is looked up all the same.
        """
        rows, root = self.rows(split), self._root(split)
        paths = distinct_paths(rows)
        if not self.allow_outside:
            refuse_outside(paths, root)
        bad = missing_pictures(paths, root)
        other_table = split == "predict" and self.predict_path is not None
        if self.on_bad_sample != "error" and (other_table or not self._verified):
            there = [path for path in paths if path not in bad]
            bad |= unreadable_pictures(there, root, transform.min_size)
        try:
            rows, note = apply_policy(rows, bad, self.on_bad_sample, root)
        except DataError as error:
            source = self.predict_path if other_table else self.path
            raise DataError(f"The {split} split of {source}: {error}") from error
        if note:
            source = self.predict_path if other_table and self.predict_path else self.path
            rank_zero_info(f"{source.name}, {split}: {note}")
        return rows

    def _dataset(self, rows: pa.Table, split: Split, transform: ImageTransform) -> ImageTextDataset:
        root = self._root(split)
        if self.allow_outside and rows.num_rows:
            # the dataset holds paths to its root: make that the root of the file system
            full = [None if p is None else str(root / p) for p in rows["image"].to_pylist()]
            rows = rows.set_column(
                rows.column_names.index("image"), "image", pa.array(full, pa.string())
            )
            root = Path(root.anchor)
        return ImageTextDataset(rows, root, transform, seed=self.seed)

    def write_manifest(self, bad: Mapping[str, str]) -> Path:
        """Keep the rows for later starts, once all pictures were read.

        Args:
            bad: full path of a picture to what is wrong with it.

        Returns:
            Where it lies.

        Raises:
            DataError: there are bad pictures and ``on_bad_sample`` is ``error``, or the cache
                cannot be written.
        """
        full = {path: str(self.image_root / path) for path in distinct_paths(self._all_rows)}
        own = {path: bad[name] for path, name in full.items() if name in bad}
        rows, note = apply_policy(self._all_rows, own, self.on_bad_sample, self.image_root)
        embedded = self.image_root == embedded_folder()
        facts = {"classes": self._classes, "note": note, "embedded": embedded}
        write_manifest(self.manifest, rows, facts)
        return self.manifest

    def remove_manifest(self) -> None:
        """Have later starts read the table again: a check found what keeps training from it."""
        self.manifest.unlink(missing_ok=True)


def _located(path: Path, error: DataError) -> DataError:
    """The same with its table, and what its row numbers mean."""
    counted = " Rows count from 0, without the header." if _ROW.search(str(error)) else ""
    return DataError(f"{path}: {error}{counted}")


def _check_classes(classes: list[str] | None) -> None:
    if classes is None:
        return
    repeated = [name for name, count in Counter(classes).items() if count > 1]
    if repeated or not classes:
        found = f"names {repeated[0]!r} twice" if repeated else "is empty"
        raise ConfigError(
            f"classes {found}. Name each class once, or leave classes out for alphabetical order."
        )


def _folder(table: Path) -> Path:
    return (table if table.is_dir() else table.parent).resolve()
