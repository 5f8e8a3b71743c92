"""Rows of a user's table: they are checked and assigned to splits here."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.data.datamodule import Split
from epic_pl.data.rows import Rows, grouped_split, refuse_rows, sample_table
from epic_pl.data.tables.columns import (
    KINDS,
    SPLIT_COLUMN,
    RowOptions,
    read_columns,
    read_label_cells,
    read_splits,
    unpack_images,
)
from epic_pl.data.tables.folders import read_image_folder
from epic_pl.data.tables.formats import is_image_folder, read_captions, read_table
from epic_pl.data.tables.labels import read_labels
from epic_pl.utils.errors import DataError

Builder = Callable[[pa.Table, RowOptions], tuple[pa.Table, Sequence[str]]]
"""Gives rows with the columns ``sample_id, image, text, label, split``, and the class names."""


def table_folder(path: Path) -> Path:
    """The folder that image paths of a table are relative to by default."""
    return (path if os.path.isdir(path) else path.parent).resolve()


def read_rows(
    table: Path | pa.Table, image_root: Path, options: RowOptions, build: Builder
) -> Rows:
    """Read a table from a path or from memory, unpack its embedded images, and ``build`` its rows.

    Raises:
        DataError: if the table or a row cannot be used.
    """
    path = table if isinstance(table, Path) else Path("table in memory")
    try:
        source = read_table(table) if isinstance(table, Path) else table
        if not source.num_rows:
            raise DataError("There are no rows.")
        source, embedded = unpack_images(source, options.image_column)
        if options.split_column is None and os.path.isdir(path):
            known = SPLIT_COLUMN in source.column_names
            options = replace(options, split_column=SPLIT_COLUMN if known else None)
        rows, classes = build(source, options)
    except DataError as error:
        place = "" if str(path) in str(error) else f"{path} (rows count from 0): "
        raise DataError(f"{place}{error}") from error
    return Rows(rows, embedded or image_root, path, classes)


def read_unlabelled(
    table: Path | pa.Table, image_root: Path, options: RowOptions, multilabel: bool = False
) -> Rows:
    """Read rows to predict from a table, see :func:`read_rows`, or from a folder of images.

    Images of a folder are named by their paths in it; ``options`` then only select the modalities
    to read.

    Raises:
        DataError: if the table or folder, or a row, cannot be used.
    """
    build = partial(_build_unlabelled, multilabel=multilabel)
    if not (isinstance(table, Path) and is_image_folder(table)):
        return read_rows(table, image_root, options, build)
    if options.image_column is None:
        raise DataError(f"{table} is a folder of images, but image_column is null: name a table.")
    texts = options.text_columns and "text"
    typed = {f"{kind}_columns": getattr(options, f"{kind}_columns") for kind in KINDS}
    options = RowOptions("image", texts, id_column="image", columns=options.columns, **typed)
    images = read_image_folder(table, read_captions(table))
    return replace(read_rows(images, table.resolve(), options, build), source=table)


def build_rows(source: pa.Table, options: RowOptions) -> tuple[pa.Table, Sequence[str]]:
    """Make checked rows of all splits, and the class names."""
    columns = read_columns(source, options)
    named = read_splits(source, options.split_column)
    cells = read_label_cells(source, options.label_column)
    codes, classes, multilabel = read_labels(cells, named, options)
    split = _assign(codes, _image_numbers(columns), named, options)
    _check_unseen(codes, split, classes)
    labels = codes if multilabel else [code and code[0] for code in codes]
    return _ordered(columns, labels, split, multilabel), classes


def _build_unlabelled(
    source: pa.Table, options: RowOptions, multilabel: bool
) -> tuple[pa.Table, Sequence[str]]:
    split = np.full(source.num_rows, "predict")
    return _ordered(read_columns(source, options), [None] * len(split), split, multilabel), ()


def _assign(
    codes: Sequence[Sequence[int] | None],
    groups: npt.NDArray[np.int64],
    named: npt.NDArray[np.str_],
    options: RowOptions,
) -> npt.NDArray[np.str_]:
    """Split of each row: the one that the table names, or a new one of its training rows.

    Rows with equal numbers in ``groups`` stay together; rows without ``codes`` are to be predicted.
    """
    split = np.where([row is None for row in codes], "predict", named)
    wanted = (("val", options.val_size), ("test", options.test_size))
    sizes = {part: size for part, size in wanted if size and not (split == part).any()}
    train = np.flatnonzero(split == "train")
    if not train.size:
        raise DataError("The table has no training rows: no split is named train.")
    if not sizes:
        return split
    labels = [codes[row] or () for row in train.tolist()]
    parts = grouped_split(labels, groups[train], sizes, options.split_seed)
    split[train] = np.array(["train", *sizes])[parts]
    if "val" in sizes and not (split == "val").any():
        raise DataError(
            f"No row can be cut off for validation (val_size {options.val_size}): of {train.size:,}"
            f" rows each of {len(set().union(*labels)):,} classes keeps one for training. Ask for "
            "more, merge rare classes, or name another label_column or a split_column."
        )
    return split


def _image_numbers(columns: Mapping[str, Any]) -> npt.NDArray[np.int64]:
    """A number for each distinct image, or text without an image; empty rows are all distinct."""
    images, texts = columns["images"], columns["texts"]
    if pc.any(pc.match_substring_regex(images, r"//|(^|/)\.\.?/")).as_py():
        paths = images.to_pylist()
        images = pa.array([path and os.path.normpath(path) for path in paths], pa.string())
    of_image = images.dictionary_encode().indices.cast(pa.int64())
    of_text = pc.add(texts.dictionary_encode().indices.cast(pa.int64()), len(images))
    own = pa.array(np.arange(len(images)) + 2 * len(images))
    return np.asarray(pc.coalesce(of_image, of_text, own))


def _check_unseen(
    codes: Sequence[Sequence[int] | None], split: npt.NDArray[np.str_], classes: Sequence[str]
) -> None:
    """Refuse classes that occur in validation or test, but not in training."""
    pairs = [(row, code) for row, row_codes in enumerate(codes) for code in row_codes or ()]
    seen = {code for row, code in pairs if split[row] == "train"}
    unseen = [(row, code) for row, code in pairs if code not in seen and split[row] != "predict"]
    names = [repr(classes[code]) for code in sorted({code for _, code in unseen})[:5]]
    problem = f"Labels unknown in training: {', '.join(names)} occur in validation or test only, in"
    mask = np.isin(np.arange(len(codes)), [row for row, _ in unseen])
    refuse_rows(mask, problem, "Move a row of each to train, or correct the label.")


def _ordered(
    columns: Mapping[str, Any], labels: Sequence[Any], split: npt.NDArray[np.str_], multilabel: bool
) -> pa.Table:
    """Checked rows in the order of their splits."""
    table = sample_table(**columns, labels=labels, multilabel=multilabel)
    table = table.append_column("split", pa.array(split, pa.string()))
    rank = pc.index_in(table["split"], value_set=pa.array(get_args(Split))).combine_chunks()
    return table.take(pc.array_sort_indices(rank)).combine_chunks()  # which keeps equal ones
