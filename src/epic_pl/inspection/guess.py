"""Guess the role of each column of a table: from its name first, then from its cells."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.data.images import IMAGE_SUFFIXES
from epic_pl.data.tables.columns import SPLIT_NAMES, is_list, may_embed, read_image_paths
from epic_pl.data.tables.labels import written_lists
from epic_pl.errors import DataError, did_you_mean

_NAMES = {
    "image": ("image", "img", "picture", "photo", "filename", "file", "path"),
    "text": ("text", "title", "caption", "sentence", "description", "hypothesis", "question"),
    "label": ("label", "labels", "class", "category", "target", "genre", "genres", "tags"),
    "split": ("split", "set", "subset", "partition", "fold"),
    "id": ("id", "uid", "key", "index"),
}
_UNCLEAR = "No column looks like {}; there are {}. Name one, as in `epic-pl data init ... {}`."
_QUANTITY = (
    "Numbers to predict, such as prices, are no classes: write a column with ranges of them, such "
    "as cheap and dear, and name it by --label."
)
_AMOUNT = (  # currencies, thousands, decimal commas
    (r"^\s*[€$£¥]?\s*|\s*([€$£¥%]|[A-Z]{3})?\s*$", ""),
    (r"[.,' ](\d{3})\b", r"\1"),
    (",", "."),
)
_EXAMINED_ROWS, _EXAMINED_FILES = 2000, 50
_MOST_NUMBERS = 20  # classes that are called by numbers with decimals


@dataclass(frozen=True)
class Guess:
    """Guessed arguments of ``TableDataModule``, columns without a role, and row counts."""

    image_column: str | None
    text_columns: list[str]
    label_column: str
    label_separator: str | None
    split_column: str | None
    id_column: str | None
    image_root: Path | None
    val_size: float
    val_rows: int
    multilabel: bool
    unused: list[str]
    likely_texts: list[str]  # without a role, though they hold words and no column is a text


def guess_columns(
    table: pa.Table,
    folder: Path,
    image: str | None = None,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
) -> Guess:
    """Guess the columns from names and cells of a table, and from the files in its folder.

    Args:
        table: with all its columns.
        folder: of the table.
        image: column of images, or a template. None is guessed, unless ``text`` is given.
        text: column of texts, several, or a template. None is guessed, unless ``image`` is given.
        label: column of labels; None is guessed.

    Raises:
        DataError: no column looks like a label, or none like image or text; the label is a
            quantity; or a named column does not exist.
    """
    names = table.column_names
    texts = [text] if isinstance(text, str) else list(text or ())
    roles = [("image", image), *(("text", name) for name in texts), ("label", label)]
    given = {name: role for role, name in roles if name is not None}
    if len(given) < sum(name is not None for _, name in roles):
        named_twice = ", ".join(f"{name!r} for the {role}" for role, name in roles if name)
        raise DataError(f"A column can have one role, but you name {named_twice}: change one.")
    for name, role in given.items():
        if name not in names and (role == "label" or "{" not in name):
            meant = did_you_mean(name, names)
            raise DataError(f"There is no column {name!r} for the {role}, only {names}.{meant}")
    named, source, root = image or texts, image, folder
    if image in names or not named:
        candidates = table.select([image]) if image else table
        image, source, root = _images(candidates, folder) or (image, image, folder)
    if image in given and not (image in names and may_embed(table[image].type)):
        paths = read_image_paths(table, image).drop_null().to_pylist()
        if not any(os.path.isfile(root / path) for path in paths):
            raise DataError(
                f"Column {image!r}, named for the images, holds no file in {root}: the first cell "
                f"is {[*paths, None][0]!r}. Name another, or move the table to the images."
            )
    left = [name for name in names if name not in (source, *texts)]
    split = next((name for name in _by_name(left, "split") if _is_split(table[name])), None)
    label = label or _label(table, [name for name in left if name != split])
    _refuse_quantity(table, label)
    # the column of a template such as {id}.jpg may be the id as well
    ids = _by_name([name for name in names if name not in (image, split, label)], "id")
    identity = next((name for name in ids if _distinct(table[name]) == len(table)), None)
    left = [name for name in left if name not in (split, label, identity)]
    if not named:
        texts = _texts(table, left, label, image is None)
    if image is None and not texts:
        raise DataError(_UNCLEAR.format("images or text", names, "--text title"))
    lists = is_list(table[label].type) or written_lists(table[label]) is not None
    separator = None if lists else _separator(table[label])
    if not lists and separator is None and _distinct(table[label]) == len(table):
        raise DataError(
            f"Column {label!r}, the label, has as many classes as rows, {len(table):,}, so that "
            "none can be learned: name another column by --label."
        )
    val_size = 0.1 if len(table) >= 200 else 0.2
    cells = table[split].to_pylist() if split else ["train"] * len(table)
    rows = Counter(SPLIT_NAMES.get(str(cell).strip().lower()) for cell in cells)
    return Guess(
        image_column=image,
        text_columns=texts,
        label_column=label,
        label_separator=separator,
        split_column=split,
        id_column=identity,
        image_root=None if root == folder else root,
        val_size=val_size,
        val_rows=rows["val"] or round(val_size * rows["train"]),
        multilabel=lists or separator is not None,
        unused=[name for name in left if name not in texts],
        likely_texts=[] if texts else _texts(table, left, label, False, distinct=0),
    )


def _by_name(names: Iterable[str], role: str) -> list[str]:
    """Columns named like a role: ``label`` before ``label_source``, ``image`` before ``path``."""
    known, ranks = _NAMES[role], {}
    for name in names:
        words = _words(name)
        matches = [known.index(word) for word in words if word in known]
        if matches:
            # cells of image columns are examined as well
            ranks[name] = (role != "image" and len(words) > 1, min(matches))
    return sorted(ranks, key=lambda name: ranks[name])


def _words(name: str) -> list[str]:
    """Lower-case parts of a name such as ``imagePath`` or ``image_path``."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", name)]


def _is_string(dtype: pa.DataType) -> bool:
    dtype = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
    return bool(pa.types.is_string(dtype) or pa.types.is_large_string(dtype))


def _names_classes(dtype: pa.DataType) -> bool:
    return _is_string(dtype) or pa.types.is_integer(dtype) or bool(pa.types.is_boolean(dtype))


def _read_cells(column: pa.ChunkedArray) -> list[str]:
    """First non-empty cells of a column as stripped strings; empty for nested types."""
    column = column.slice(0, _EXAMINED_ROWS)
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        return []
    cells = column.cast(pa.string()).drop_null().to_pylist()
    return [stripped for cell in cells if (stripped := cell.strip())]


def _distinct(column: pa.ChunkedArray) -> int:
    """Number of distinct strings or integers in a column; 0 for other types."""
    if not _names_classes(column.type):
        return 0
    return int(pc.count_distinct(column.cast(pa.string())).as_py())


def _images(table: pa.Table, folder: Path) -> tuple[str, str, Path] | None:
    """The image column or a template of it, its source column, and the folder of its paths.

    Cells are images, or names of files in ``folder`` or a subfolder, with or without suffix. If
    there are no such files, a column is chosen if its name or cells look like images: the check
    then reports missing files, instead of training on the text alone.
    """
    embedded = [field.name for field in table.schema if may_embed(field.type)]
    if embedded:
        return embedded[0], embedded[0], folder
    strings = [field.name for field in table.schema if _is_string(field.type)]
    named = _by_name(strings, "image")
    columns = {name: _read_cells(table[name]) for name in dict.fromkeys([*named, *strings])}
    roots = [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir())]
    for name, cells in columns.items():
        for root in roots:
            if _most(os.path.isfile(root / cell) for cell in cells[:_EXAMINED_FILES]):
                return name, name, _common_folder(table[name]) or root
    for root in roots:
        files = [file for file in root.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
        suffixes = {file.stem: file.suffix for file in files}
        for name in dict.fromkeys([*named, *_by_name(table.column_names, "id")]):
            endings = [suffixes.get(cell) for cell in _read_cells(table[name])]
            if _most(ending is not None for ending in endings):
                suffix = next(filter(None, endings))
                return f"{{{name}}}{suffix}", name, root
    for name, cells in columns.items():
        by_name = name in named and {*_words(name)} <= {*_NAMES["image"]}
        if _most(c.lower().endswith(IMAGE_SUFFIXES) or (by_name and " " not in c) for c in cells):
            return name, name, folder
    return None


def _most(answers: Iterable[bool]) -> bool:
    listed = list(answers)
    return sum(listed) > len(listed) / 2


def _common_folder(column: pa.ChunkedArray) -> Path | None:
    """The folder that holds all paths if they are absolute, unless it is the root folder."""
    paths = [path.strip() for path in column.drop_null().to_pylist() if path.strip()]
    if not all(map(os.path.isabs, paths)):
        return None
    common = Path(os.path.commonpath(map(os.path.dirname, paths)))
    return None if common == Path(common.anchor) else common


def _is_split(column: pa.ChunkedArray) -> bool:
    """Whether cells name splits; unknown names are left to the data check."""
    splits = {SPLIT_NAMES.get(cell.lower()) for cell in _read_cells(column)}
    return "train" in splits and len(splits) + column.null_count > 1


def _label(table: pa.Table, names: Sequence[str]) -> str:
    """The column named label, else a list column, else a column with few distinct values."""
    dtypes = {name: table[name].type for name in names}
    lists = [n for n in names if is_list(dtypes[n]) and _names_classes(dtypes[n].value_type)]
    # pandas writes integers with missing values as floats
    scalars = [n for n in names if _names_classes(dtypes[n]) or pa.types.is_floating(dtypes[n])]
    distinct = {name: _distinct(table[name]) for name in scalars}
    few = [name for name in scalars if 2 <= distinct[name] <= max(2, len(table) // 4)]
    named = _by_name([*lists, *scalars], "label")
    likely = [
        *(name for name in named if name.lower() in _NAMES["label"]),
        *lists,
        *sorted(few, key=lambda name: (name not in named, distinct[name])),
        *named,
    ]
    if not likely:
        raise DataError(
            _UNCLEAR.format("a label of several values", table.column_names, "--label kind")
            + f" {_QUANTITY}"
        )
    return likely[0]


def _refuse_quantity(table: pa.Table, label: str) -> None:
    """Refuse labels that are amounts with decimals, or with hardly any amount twice."""
    column = table[label]
    with suppress(pa.ArrowException):  # no strings
        for pattern, plain in _AMOUNT:
            column = pc.replace_substring_regex(column, pattern, plain)
    try:
        numbers = column.cast(pa.float64())
    except pa.ArrowException:
        return
    numbers = numbers.filter(pc.is_finite(numbers))  # pandas writes a missing integer as NaN
    distinct = pc.count_distinct(numbers).as_py()
    decimals = pc.any(pc.not_equal(pc.floor(numbers), numbers)).as_py()
    if distinct > _MOST_NUMBERS and (decimals or distinct > len(numbers) / 2):
        raise DataError(
            f"Column {label!r}, the label, holds {distinct:,} different numbers in "
            f"{len(numbers):,} rows. {_QUANTITY}"
        )


def _separator(labels: pa.ChunkedArray) -> str | None:
    """The separator of several labels per cell, whose parts recur in other cells."""
    if not _is_string(labels.type):
        return None
    cells = [cell for cell in labels.cast(pa.string()).drop_null().to_pylist() if cell.strip()]
    for mark in "|;,":
        parts = Counter(part.strip() for cell in set(cells) for part in set(cell.split(mark)))
        often = sum(mark in cell for cell in cells) >= max(1, 0.05 * len(cells))
        # single names may have commas ("Paris, France"), so commas need stronger evidence
        recur = len(parts) < (len(set(cells)) if mark == "," else parts.total())
        if often and recur:
            return mark
    return None


def _texts(
    table: pa.Table, names: Sequence[str], label: str, needed: bool, distinct: float = 0.1
) -> list[str]:
    """Columns named like text, or with a share of ``distinct`` cells of several words.

    A column that restates the class is left out unless it is the only input.
    """
    named = _by_name(names, "text")
    texts = []
    for name in names:
        cells = _read_cells(table[name])
        # in scripts without spaces between words, characters take 3 bytes
        phrases = (" " in c or (len(c) >= 4 and len(c.encode()) >= 2.5 * len(c)) for c in cells)
        prose = _most(phrases) and len(set(cells)) > len(cells) * distinct
        if _is_string(table[name].type) and (prose or name in named):
            texts.append(name)
    inputs = [name for name in texts if not _restates(table, name, label)]
    return inputs or (texts if needed else [])


def _restates(table: pa.Table, text: str, label: str) -> bool:
    """Whether all rows of a class have one text, in a table where classes recur."""
    if not _names_classes(table[label].type):
        return False
    rows = pa.table({name: table[name].cast(pa.string()) for name in (text, label)}).drop_null()
    classes, pairs = (rows.group_by(by).aggregate([]).num_rows for by in (label, [text, label]))
    return bool(classes == pairs <= len(rows) // 2)
