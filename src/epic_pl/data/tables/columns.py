"""Reading of the columns of a user's table that the options name; errors name rows."""

import hashlib
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from secrets import token_hex
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.data.cells import (
    DATE_FORMATS,
    UNITS,
    as_category,
    as_date,
    as_number,
    is_empty,
    is_format,
    part_names,
)
from epic_pl.data.rows import refuse, refuse_rows
from epic_pl.utils.assets.cached import cache_dir
from epic_pl.utils.errors import ConfigError, DataError, did_you_mean, raised_as
from epic_pl.utils.types import Batch

_SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "holdout"),
    "predict": ("predict",),
}
SPLIT_NAMES = {name: split for split, names in _SPLITS.items() for name in names}
"""What users call a split, and its name here."""
KINDS = "number", "category", "date"
"""Kinds of columns that the model reads beside images and texts."""
_UNIT = re.compile(UNITS)
_COMMA = r",(\d{1,2}|\d{4,})\D*$"  # of decimals
_POINT = r"^\D*[1-9]\d{0,2}\.\d{3}\D*$"  # of thousands or decimals
RESERVED = frozenset(("image", "text", "label", "sample_id", "top_k", ""))
RESERVED |= {"self", "items", "batch_size", "num_workers", "progress"}
"""Names of other entries of an item, and of arguments beside them."""
SPLIT_COLUMN = "split"
"""The column of splits that the tables of class folders and of a ``DatasetDict`` have."""


@dataclass(frozen=True)
class RowOptions:
    """Options that name the columns of a table and the sizes of splits.

    Attributes are arguments of :class:`~epic_pl.data.tables.datamodule.TableDataModule`.

    Raises:
        ConfigError: if neither images nor texts have a column, classes are not distinct, or one of
            ``columns`` has the name of another key of a batch.
    """

    image_column: str | None = "image"
    text_columns: str | list[str] | None = "text"
    label_column: str = "label"
    label_separator: str | None = None
    split_column: str | None = None
    id_column: str | None = None
    classes: list[str] | None = None
    val_size: float | int = 0.1
    test_size: float | int = 0.1
    split_seed: int = 0
    columns: list[str] | None = None
    number_columns: list[str] | None = None
    category_columns: list[str] | None = None
    date_columns: list[str] | dict[str, str] | None = None

    def __post_init__(self) -> None:
        if self.image_column is None and not self.text_columns:
            raise ConfigError("No column of images or texts is named (image_column, text_columns).")
        names = self.classes
        if names is not None and (not names or len(set(names)) < len(names)):
            raise ConfigError(f"classes is empty or names one twice: {', '.join(names)}.")
        if taken := [name for name in self.columns or () if name in Batch.__annotations__]:
            raise ConfigError(f"columns: a batch has a {taken[0]!r} already, so rename the column.")
        typed = [name for kind in KINDS for name in getattr(self, f"{kind}_columns") or ()]
        if taken := [name for name in typed if name in RESERVED]:
            raise ConfigError(f"Items and requests have a {taken[0]!r} already: rename the column.")
        formats = self.date_columns if isinstance(self.date_columns, dict) else {}
        if wrong := [f"{name}: {form}" for name, form in formats.items() if not is_format(form)]:
            raise ConfigError(f"date_columns: {wrong[0]} is no format such as '%d.%m.%Y'.")
        read = [*typed, *(part for name in self.date_columns or () for part in part_names(name))]
        if twice := [name for name, times in Counter(read).items() if times > 1]:
            problem = f"{twice[0]!r} is read twice, of number_, category_ and date_columns"
            raise ConfigError(f"{problem}: name a column once, or rename it.")


def read_columns(table: pa.Table, options: RowOptions) -> dict[str, Any]:
    """Ids, image paths, texts and further columns of all rows, as ``sample_table`` takes them.

    Without a column of ids they are row numbers.
    """
    name, more = options.id_column, [*dict.fromkeys(options.columns or ())]
    ids = pa.array(np.arange(table.num_rows)) if name is None else _column(table, name, "id_column")
    cells = [_numbers_or_texts(table, name) for name in more]
    return {
        "sample_ids": _strings(ids, name or "id"),
        "images": read_image_paths(table, options.image_column),
        "texts": read_texts(table, options.text_columns),
        "columns": pa.StructArray.from_arrays(cells, more) if more else None,
        "cells": read_cells(table, options),
    }


def _column(table: pa.Table, name: str, option: str) -> pa.Array:
    """A column as one array; ``option`` is the argument that names it."""
    if name not in (own := table.column_names):
        without = {"image_column": "images", "text_columns": "texts"}.get(option, "")
        meant = did_you_mean(name, own)
        null = without and f" Rename one, or for a table without {without} set {option} to null."
        raise DataError(f"The table has no column {name!r} ({option}); it has {own}.{meant}{null}")
    array = pa.concat_arrays(table[name].chunks)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _require_scalars(kind: pa.DataType, name: str) -> None:
    """Refuse a column of lists, structs or bytes."""
    if pa.types.is_nested(kind) or is_bytes(kind):
        raise DataError(
            f"Column {name!r} holds {kind}, but strings or numbers are needed: name another column."
        )


def is_list(kind: pa.DataType) -> bool:
    """Whether an Arrow type is any kind of list."""
    return isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType)


def _strings(array: pa.Array, name: str) -> pa.Array:
    _require_scalars(array.type, name)
    return array.cast(pa.string())


def read_label_cells(table: pa.Table, name: str) -> pa.Array:
    """Read the label column: strings, numbers, or lists of them."""
    cells = _column(table, name, "label_column")
    _require_scalars(cells.type.value_type if is_list(cells.type) else cells.type, name)
    return cells


def read_image_paths(table: pa.Table, name: str | None) -> pa.Array:
    """Read image paths without surrounding blanks; an empty cell becomes null.

    ``name`` is a column, or a template such as ``"{id}.jpg"``; None for no images.
    """
    if name is None:
        return pa.nulls(table.num_rows, pa.string())
    if "{" in name and name not in table.column_names:
        return _fill_template(table, _template(name, "image_column"), "image_column")
    paths = _column(table, name, "image_column")
    if may_embed(paths.type) and not is_bytes(paths.type):
        paths = pc.struct_field(paths, "path")  # unpack_images has replaced the bytes by null
    if not (pa.types.is_null(paths.type) or "string" in str(paths.type)):
        raise DataError(f"Column {name!r} holds {paths.type}, not paths of images: name another.")
    return _trimmed(paths.cast(pa.string()))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether an Arrow type is any kind of bytes."""
    return str(kind) in ("binary", "large_binary", "binary_view")


def may_embed(kind: pa.DataType) -> bool:
    """Whether cells may be images: bytes, or an ``Image`` feature of Hugging Face datasets."""
    if is_bytes(kind):
        return True
    return pa.types.is_struct(kind) and {field.name for field in kind} >= {"bytes", "path"}


def unpack_images(table: pa.Table, name: str | None) -> tuple[pa.Table, Path | None]:
    """Write images that a column holds as bytes to files in the cache, and replace them by paths.

    The name of a file is the digest of its content, so that copies of an image share a file.

    Returns:
        The new table, and the folder of the files; None if the column holds no images.
    """
    if name not in table.column_names or not may_embed(table.schema.field(name).type):
        return table, None
    content = table[name]
    if not is_bytes(content.type):
        content, paths = (pc.struct_field(table[name], part) for part in ("bytes", "path"))
        embedded = pc.is_valid(content)
        if not pc.any(embedded).as_py():
            return table, None
        elsewhere = pc.and_not(pc.is_valid(paths), embedded)
        problem = f"Column {name!r} holds the bytes of images, but only a path in"
        refuse_rows(elsewhere, problem, "Put the bytes there too, or use paths in all rows.")
    root = (cache_dir() / "images").resolve()
    problem = f"Images of column {name!r} cannot be written to {root}"
    with raised_as(DataError, problem, "Free some space, or set EPIC_PL_CACHE.", OSError):
        paths = [
            _unpacked(cell.as_buffer(), root) if cell.is_valid else None
            for chunk in content.chunks
            for cell in chunk
        ]
    at = table.column_names.index(name)
    return table.set_column(at, name, pa.array(paths, pa.string())), root


def _unpacked(content: pa.Buffer, root: Path) -> str:
    """Path of an image below ``root``; the file is written if it is missing or damaged."""
    digest = hashlib.sha256(content).hexdigest()
    path = f"{digest[:2]}/{digest}"
    file = root / path
    if not file.is_file() or content != file.read_bytes():
        file.parent.mkdir(parents=True, exist_ok=True)
        # not by utils.files, whose flush to the disk takes ten times as long for so many files
        partial = file.with_name(f".{token_hex(8)}.partial")
        partial.write_bytes(content)
        partial.replace(file)
    return path


def read_texts(table: pa.Table, spec: str | Sequence[str] | None) -> pa.Array:
    """Read the text of each row; it is null if all its cells are empty or blank.

    ``spec`` is a column; several, joined by a space; or a template such as ``"{title}. {body}"``.
    """
    if spec is None or spec == []:
        return pa.nulls(table.num_rows, pa.string())
    if isinstance(spec, str) and "{" in spec and spec not in table.column_names:
        parts = _template(spec, "text_columns")
    else:
        names = [spec] if isinstance(spec, str) else spec
        parts = [(" " if index else "", name) for index, name in enumerate(names)]
    return pc.utf8_trim_whitespace(_fill_template(table, parts, "text_columns"))


def _numbers_or_texts(table: pa.Table, name: str) -> pa.Array:
    """Read a column for the batch: float32 if every cell with content is a number, else strings."""
    texts = _strings(_column(table, name, "columns"), name)
    cells = _trimmed(texts)
    try:
        numbers = cells.cast(pa.float64()).cast(pa.float32(), safe=False)
    except pa.ArrowInvalid:
        return texts
    bad = pc.invert(pc.fill_null(pc.is_finite(numbers), False))
    if cells.null_count == len(cells):
        return texts
    problem = f"Column {name!r} (columns) holds numbers, but none that is finite in"
    refuse_rows(bad, problem, "Fill these cells, or leave the rows out.", texts)
    return numbers


def read_cells(table: pa.Table, options: RowOptions) -> Any:
    """Read numbers (float64), dates (date32, with their format) and categories (strings).

    The result is an array of structs, in which empty cells are null; None without such columns.
    """
    read: dict[str, pa.Array] = {}
    dates, formats = options.date_columns or (), dict[str, str]()
    for name in options.number_columns or ():
        way_out = "Write 1234.5 (1,234 may be 1.234), leave the cell empty, or name the column in "
        way_out += "category_columns."
        number = partial(as_number, name)
        read[name] = _parsed(table, name, "number", number, pa.float64(), way_out)
        _require_one_notation(table, name, way_out)
    for name in dates:
        form = dates[name] if isinstance(dates, dict) else _date_format(table, name)
        way_out = f"Write 2007-06-10, or give the format: date_columns: {{{name}: '%d.%m.%Y'}}."
        day, formats[name] = partial(as_date, name, form=form), form
        read[name] = _parsed(table, name, "date", day, pa.date32(), way_out)
    for name in options.category_columns or ():
        read[name] = _parsed(table, name, "category", as_category, pa.string())
    if not read:
        return None
    more = {name: {"format": form} for name, form in formats.items()}
    fields = [pa.field(name, read[name].type, metadata=more.get(name)) for name in read]
    return pa.StructArray.from_arrays([*read.values()], fields=fields)


def _parsed(
    table: pa.Table, name: str, kind: str, parse: Callable[[Any], Any], to: Any, way_out: str = ""
) -> pa.Array:
    """Cells as ``parse`` reads them, called once for each that differs; null if empty."""
    cells = _column(table, name, f"{kind}_columns")
    _require_scalars(cells.type, name)
    if "string" in str(cells.type):
        cells = _trimmed(cells.cast(pa.string()))
    coded = cells.dictionary_encode()
    values: list[Any] = []
    wrong = []
    # as a Python number, 0.1 in float32 would have its rounding error
    floating, known = pa.types.is_floating(cells.type), coded.dictionary
    for place, cell in enumerate(known.to_numpy() if floating else known.to_pylist()):
        try:
            values.append(None if is_empty(name, cell, kind == "category") else parse(cell))
        except ValueError:
            values.append(None)
            wrong.append(place)
    at = pc.is_in(coded.indices, value_set=pa.array(wrong, coded.indices.type))
    refuse_rows(at, f"Column {name!r} ({kind}_columns) holds no {kind} in", way_out, cells)
    return pa.array(values, to).take(coded.indices)


def _require_one_notation(table: pa.Table, name: str, way_out: str) -> None:
    """Refuse numbers of several units, and 1.234 beside decimal commas."""
    cells = _column(table, name, "number_columns")
    if "string" not in str(cells.type):
        return
    texts = cells.unique().drop_null().to_pylist()
    units = {unit for text in texts for unit in _UNIT.findall(text)}
    if len(units) > 1:
        several = f"Column {name!r} (number_columns) holds numbers in {', '.join(sorted(units))}"
        refuse(DataError(f"{several}. {way_out}"))
    if pc.any(pc.match_substring_regex(cells, _COMMA)).as_py():
        problem = f"Column {name!r} (number_columns) has decimal commas, and points that may be of"
        at = pc.match_substring_regex(cells, _POINT)
        refuse_rows(at, f"{problem} thousands in", way_out, cells)


def _date_format(table: pa.Table, name: str) -> str:
    """The format that reads all dates of a column.

    Raises:
        DataError: if several do, and read different dates.
    """
    cells = _column(table, name, "date_columns")
    if "string" not in str(cells.type):
        return DATE_FORMATS[0]
    texts = cells.cast(pa.string()).unique().to_pylist()
    texts = [text.strip() for text in texts if not is_empty(name, text)]
    read: dict[str, list[Any]] = {}
    for form in DATE_FORMATS:
        with suppress(ValueError):
            read[form] = [as_date(name, text, form) for text in texts]
    first, *others = list(read) or DATE_FORMATS[:1]
    for other in others:
        for text, one, two in zip(texts, read[first], read[other], strict=True):
            if one != two:
                told = f"{text!r} may be {one:%Y-%m-%d} or {two:%Y-%m-%d}. Give its format"
                told += f": date_columns: {{{name}: '{first}'}} or '{other}'."
                refuse(DataError(f"Column {name!r} (date_columns): {told}"))
                return first
    return first


def read_splits(table: pa.Table, name: str | None) -> npt.NDArray[np.str_]:
    """Read the split of each row by :data:`SPLIT_NAMES`; without a column all are ``train``."""
    if name is None:
        return np.full(table.num_rows, "train", dtype="<U7")
    given = _strings(_column(table, name, "split_column"), name)
    lower = pc.utf8_lower(pc.utf8_trim_whitespace(given))
    places = pc.index_in(lower, value_set=pa.array(list(SPLIT_NAMES)))
    problem = f"Column {name!r} must hold one of {', '.join(SPLIT_NAMES)}, but does not in"
    refuse_rows(pc.is_null(places), problem, "Rename these splits.", given)
    places = pc.fill_null(places, list(SPLIT_NAMES).index("predict"))
    return cast(npt.NDArray[np.str_], np.array(list(SPLIT_NAMES.values()))[places.to_numpy()])


def _trimmed(cells: pa.Array) -> pa.Array:
    """Cells without surrounding blanks; null if nothing else is in a cell."""
    cells = pc.utf8_trim_whitespace(cells)
    return pc.if_else(pc.equal(cells, ""), None, cells)


def _fill_template(table: pa.Table, parts: list[tuple[str, str | None]], option: str) -> pa.Array:
    """Fill a template for each row; null if all cells are empty or, in a path, any cell is."""
    pieces: list[Any] = []
    empty = []
    for literal, name in parts:
        pieces.append(pa.scalar(literal, pa.string()))
        if name is not None:
            cells = _trimmed(_strings(_column(table, name, option), name))
            pieces.append(pc.fill_null(cells, ""))
            empty.append(pc.is_null(cells))
    absent = reduce(pc.or_ if option == "image_column" else pc.and_, empty)
    return pc.if_else(absent, None, pc.binary_join_element_wise(*pieces, ""))


def _template(spec: str, option: str) -> list[tuple[str, str | None]]:
    """Parse a template into pairs of a literal and the column that follows it."""
    with raised_as(ConfigError, f"{option} {spec!r} is no template", "", ValueError):
        parsed = list(string.Formatter().parse(spec))
    names = [name for _, name, _, _ in parsed if name is not None]
    if not names or any(form or conversion or name == "" for _, name, form, conversion in parsed):
        raise ConfigError(f"{option} {spec!r}: braces hold a column's name alone, as in {{title}}.")
    return [(literal, name) for literal, name, _, _ in parsed]
