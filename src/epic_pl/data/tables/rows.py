"""Rows of a user's table, checked and assigned to splits."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.data.rows import named_rows, sample_table, table_schema
from epic_pl.data.splits import grouped_split
from epic_pl.data.tables.columns import id_column, image_column, split_column, text_column
from epic_pl.data.tables.hf import HF_SPLIT_COLUMN
from epic_pl.data.tables.labels import Labels, class_order, encode_labels, label_column
from epic_pl.errors import DataError

SPLITS = ("train", "val", "test", "predict")


@dataclass(frozen=True)
class RowOptions:
    """The columns of a table and how splits are cut; arguments of ``TableDataModule``."""

    image_column: str | None
    text_columns: str | list[str] | None
    label_column: str
    label_separator: str | None
    split_column: str | None
    id_column: str | None
    classes: list[str] | None
    val_size: float | int
    test_size: float | int
    split_seed: int


def build_rows(source: pa.Table, options: RowOptions, hf: bool = False) -> tuple[pa.Table, Any]:
    """Columns ``sample_id, image, text, label, split``, and the class names."""
    images = image_column(source, options.image_column)
    texts = text_column(source, options.text_columns)
    name = options.split_column
    if name is None and hf and HF_SPLIT_COLUMN in source.column_names:
        name = HF_SPLIT_COLUMN
    given: Any = np.full(source.num_rows, "train")
    if name is not None:
        given = np.array(split_column(source, name).to_pylist())
    labels, multilabel = label_column(
        _without_labels(source, options.label_column, given == "predict"),
        options.label_column,
        options.label_separator,
    )
    named = np.array([bool(names) for names in labels])
    if not (given == "predict").any() and not named[given == "test"].any():
        given = np.where(given == "test", "predict", given)  # a test split to hand in somewhere
    # with a separator no class applies to an empty cell
    empty: list[str] | None = None if options.label_separator is None else []
    labels = [
        None if split == "predict" else empty if names is None else names
        for names, split in zip(labels, given, strict=True)
    ]
    _check_labelled(labels, named, given, options.label_column)
    classes = options.classes or class_order(name for names in labels for name in names or ())
    if len(classes) < 2 and not multilabel:
        raise DataError(
            f"Column {options.label_column!r} holds one class only ({', '.join(classes)}): there "
            "is nothing to classify. Name another column as label_column."
        )
    codes = encode_labels(labels, classes)
    split = _assign(codes, _groups(images, texts), given, options)
    _check_unseen(codes, split, classes)
    column = codes if multilabel else [code and code[0] for code in codes]
    label = pa.array(column, table_schema(multilabel).field("label").type)
    return _ordered(source, options, images, texts, label, split), classes


def _without_labels(source: pa.Table, name: str, predicted: npt.NDArray[np.bool_]) -> pa.Table:
    """The table without the labels of rows to predict, which may be "?"."""
    if name not in source.column_names or not predicted.any():
        return source
    rows = pa.array(np.arange(source.num_rows), mask=predicted)
    return source.set_column(source.column_names.index(name), name, source[name].take(rows))


def no_rows(options: RowOptions) -> pa.Table:
    """For a table that is absent; several labels a row if there is a separator for them."""
    schema = table_schema(options.label_separator is not None)
    return schema.append(pa.field("split", pa.string())).empty_table()


def unlabelled_rows(
    source: pa.Table, options: RowOptions, multilabel: bool
) -> tuple[pa.Table, Any]:
    """Rows to predict as of :func:`build_rows`, of a table that needs no label column."""
    images = image_column(source, options.image_column)
    texts = text_column(source, options.text_columns)
    label = pa.nulls(source.num_rows, table_schema(multilabel).field("label").type)
    split = np.full(source.num_rows, "predict")
    return _ordered(source, options, images, texts, label, split), ()


def _check_labelled(labels: Labels, named: Any, given: Any, name: str) -> None:
    """Refuse rows without a label, and splits of which no row names a class."""
    unknown = np.array([names is None for names in labels]) & (given != "predict")
    if unknown.any():
        raise DataError(
            f"There is no label in {named_rows(unknown)} (column {name!r}). Fill it in, drop the "
            "row, or put it into a split named predict."
        )
    for split in ("train", "val", "test"):
        here = given == split
        if here.any() and not named[here].any():
            raise DataError(
                f"None of the {here.sum():,} rows of the {split} split names a class (column "
                f"{name!r}): there is nothing to learn or to measure. Fill the labels in, or put "
                "these rows into a split named predict."
            )


def _assign(
    codes: Sequence[Any], groups: npt.NDArray[np.int64], given: Any, options: RowOptions
) -> Any:
    """Split of each row: those that the table does not name are cut off its training rows."""
    wanted = (("val", options.val_size), ("test", options.test_size))
    sizes = {split: size for split, size in wanted if size and not (given == split).any()}
    train = np.flatnonzero(given == "train")
    if not train.size:
        raise DataError("The table has no training rows: no split is named train.")
    if not sizes:
        return given
    labels = [codes[int(row)] for row in train]
    part = grouped_split(labels, groups[train], sizes, options.split_seed)
    split = given.astype("<U7")
    split[train] = np.array(["train", *sizes])[part]
    if "val" in sizes and not (split == "val").any():
        raise DataError(
            f"No row can be cut off for validation (val_size {options.val_size}): of "
            f"{train.size:,} rows each class keeps one for training. Ask for more, merge rare "
            "classes, or name the splits in a column (split_column)."
        )
    return split


def _groups(images: pa.Array, texts: pa.Array) -> npt.NDArray[np.int64]:
    """A number for each image, however its path is written, and for each text without one."""
    if pc.any(pc.match_substring_regex(images, r"//|(^|/)\.\.?/")).as_py():
        paths = images.to_pylist()
        images = pa.array([path and os.path.normpath(path) for path in paths], pa.string())
    of_image = images.dictionary_encode().indices.cast(pa.int64())
    of_text = pc.add(texts.dictionary_encode().indices.cast(pa.int64()), len(images))
    return np.asarray(pc.coalesce(of_image, of_text))


def _check_unseen(codes: Sequence[Any], split: Any, classes: Sequence[str]) -> None:
    """Refuse classes that validation or test have and training lacks."""
    pairs = [(row, code) for row, row_codes in enumerate(codes) for code in row_codes or ()]
    seen = {code for row, code in pairs if split[row] == "train"}
    unseen = [(row, code) for row, code in pairs if code not in seen and split[row] != "predict"]
    if unseen:
        names = [classes[code] for code in sorted({code for _, code in unseen})[:5]]
        rows = np.isin(np.arange(len(codes)), [row for row, _ in unseen])
        raise DataError(
            f"Labels unknown in training: {', '.join(map(repr, names))} occur in validation or "
            f"test only ({named_rows(rows)}). Move a row of each to train, or correct the label."
        )


def _ordered(
    source: pa.Table, options: RowOptions, images: Any, texts: Any, labels: Any, split: Any
) -> pa.Table:
    """Checked rows, in the order of their splits."""
    ids = id_column(source, options.id_column)
    table = sample_table(ids, images, texts, labels, pa.types.is_list(labels.type))
    table = table.append_column("split", pa.array(split, pa.string()))
    rank = np.array([SPLITS.index(name) for name in split], dtype=np.int64)
    return table.take(pa.array(np.argsort(rank, kind="stable"))).combine_chunks()
