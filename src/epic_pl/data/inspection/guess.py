"""Guess the role of each column of a table from names, file paths and distinct values.

If these do not suffice, one error asks the user for all that is open, since a wrong guess costs
more than an option.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.data.images import IMAGE_SUFFIXES
from epic_pl.data.inspection.kinds import guess_kinds
from epic_pl.data.tables import columns
from epic_pl.data.tables.columns import SPLIT_NAMES, is_list, may_embed
from epic_pl.data.tables.labels import MISSING, written_lists
from epic_pl.utils.errors import DataError

T = TypeVar("T")
NONE = "none"
"""In place of a column's name: there is no such column, so none is guessed."""

_WORDS = {
    "image": "image img picture photo poster filename file path",
    "text": "text title caption sentence statement description hypothesis question review plot",
    "label": "label labels class category target genre genres tags",
    "split": "split set subset partition fold",
    "id": "id uid key index",
    "code": "sku code number nr",
    "no text": "nr number row code sku date datum time url link",
}
_NAMES = {role: words.split() for role, words in _WORDS.items()}
_QUANTITY = (
    "Numbers to predict, such as prices, are no classes: write a column with ranges of them, such "
    "as cheap and dear, and name it by --label."
)
# a number, price, size, code or date: with a digit, and without a word of more than three letters
_MEASURE = re.compile(r"(?!.*[^\W\d_]{4}).*\d")
_EXAMINED = 50  # number of cells or files that are looked at
_SHOWN = 4


@dataclass(frozen=True)
class Guess:
    """Guessed arguments of ``TableDataModule``, rows of each split, and further columns."""

    image_column: str | None
    text_columns: str | list[str] | None
    label_column: str
    label_separator: str | None
    split_column: str | None
    id_column: str | None
    image_root: Path | None
    split_rows: Mapping[str, int]  # by split name; all are train without a column
    multilabel: bool
    unused: list[str]
    kinds: Mapping[str, list[str]]  # further columns by option, such as number_columns
    remarks: Mapping[str, str]  # on unused columns, whether they become further columns or not
    leaks: Mapping[str, float]  # share of rows whose label a column tells


def guess_columns(
    table: pa.Table,
    folder: Path,
    image: str | None = None,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    split: str | None = None,
) -> Guess:
    """Guess the columns from names and distinct cells, and from the files in the table's folder.

    Args:
        table: the table with all its columns.
        folder: folder of the table.
        image: column of images, or a template; ``none`` for no images. None guesses it.
        text: column of texts, several, or a template; ``none`` for no texts. None guesses it.
        label: column of labels; None guesses it.
        split: column of splits; ``none`` for no column. None guesses it.

    Raises:
        DataError: if the user has to name the column of a role, the label is a quantity or may be
            missing, or a named column has two roles or does not exist.
    """
    names = table.column_names
    texts = [] if text in (None, NONE) else [text] if isinstance(text, str) else list(text)
    named = [name for name in (image, *texts, label, split) if name not in (None, NONE)]
    if twice := [name for name in named if named.count(name) > 1]:
        raise DataError(f"A column has one role only, but {twice[0]!r} is named twice: change one.")
    problems: list[DataError] = []

    def tried(guess: Callable[..., T], *given: Any, default: T) -> T:
        try:
            return guess(*given)
        except DataError as error:
            problems.append(error)
            return default

    root = folder
    if image is None or image in names:
        others = [image] if image else [name for name in names if name not in named]
        none: tuple[str | None, Path] = None, folder
        image, root = tried(_images, table.select(others), folder, image, default=none)
    without, image = image in (None, NONE) and not problems, None if image == NONE else image
    left = [name for name in names if name not in (image, *texts, label)]
    split = tried(_split, table, left, default=None) if split is None else split
    split = None if split == NONE else split
    splits = columns.read_splits(table, split)
    if label is None:
        label = tried(_label, table, [name for name in left if name != split], default="")
    unexamined: tuple[str | None, bool] = None, False
    if label:
        cells = columns.read_label_cells(table, label).filter(pa.array(splits != "predict"))
        unexamined = tried(_examine_label, cells, label, default=unexamined)
    separator, multilabel = unexamined
    # a column in a template, such as {id}.jpg, may also be the id
    free = [name for name in names if name not in (image, split, label)]
    codes = [name for name in left if _is_string(table[name].type) and name in free]
    codes = [name for name in _by_name(codes, "code") if not _by_name([name], "text")]
    ids = [*_by_name(free, "id"), *codes]
    id_column = next((name for name in ids if _distinct(table[name]) == len(table)), None)
    left = [name for name in left if name not in (split, label, id_column)]
    if text is None:
        texts = tried(_texts, table, left, without, default=[])
    if problems:
        told = " ".join(map(str, problems))
        answers = " ".join(re.findall(r"`epic-pl data init \.\.\. (.*?)`", told))
        at_once = f" All at once: `epic-pl data init ... {answers}`." if len(problems) > 1 else ""
        raise DataError(told + at_once)
    if image is None and not texts:
        raise DataError(f"No column looks like images or text: name one of {names} by --text.")
    unused = [name for name in left if name not in texts and f"{{{name}}}" not in (image or "")]
    kinds, leaks, remarks = guess_kinds(table.select([*unused, label]), splits != "predict", label)
    return Guess(
        image_column=image,
        text_columns=texts[0] if len(texts) == 1 else texts or None,
        label_column=label,
        label_separator=separator,
        split_column=split,
        id_column=id_column,
        image_root=None if root == folder else root,
        split_rows=Counter(map(str, splits)),
        multilabel=multilabel,
        unused=unused,
        kinds=kinds,
        remarks=remarks,
        leaks=leaks,
    )


def _by_name(names: Iterable[str], role: str) -> list[str]:
    """Columns whose names suit a role, best first: ``label`` before ``label_source``."""
    known, ranks = _NAMES[role], {}
    for name in names:
        words = _words(name)
        matches = [known.index(word) for word in words if word in known]
        if matches:
            # for images, _images also looks for the files
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


def _cells(column: pa.ChunkedArray) -> list[str]:
    """Some cells as stripped strings, spread over the whole column, since rows may be sorted."""
    filled = np.flatnonzero(column.is_valid())
    chosen = np.linspace(0, len(filled) - 1, min(len(filled), _EXAMINED)).astype(int)
    cells = (str(column[int(row)].as_py()).strip() for row in filled[chosen])
    return [cell for cell in cells if cell]


def _measures(column: pa.ChunkedArray) -> bool:
    """Whether most cells are quantities or dates with a mark, such as ``5,51`` or ``12 EUR``."""
    return _most(not cell.isdecimal() and _MEASURE.match(cell) for cell in _cells(column))


def _counts(column: pa.Array | pa.ChunkedArray) -> Counter[str]:
    """Number of rows of each distinct cell, whose key is its stripped string."""
    counts: Counter[str] = Counter()
    for pair in pc.value_counts(column.cast(pa.string())).to_pylist():
        counts[(pair["values"] or "").strip()] += pair["counts"]
    return counts


def _distinct(column: pa.ChunkedArray) -> int:
    """Number of distinct strings or integers in a column; 0 for other types."""
    if not _names_classes(column.type):
        return 0
    return int(pc.count_distinct(column.cast(pa.string())).as_py())


def _ask(role: str, why: str, columns: Sequence[str], none: str = "") -> DataError:
    """An error that asks the user for the column of a role."""
    return DataError(
        f"Columns that {why}: {', '.join(map(repr, columns))}. No name decides: choose one, as in "
        f"`epic-pl data init ... --{role} {columns[0]!r}`{none}."
    )


def _images(table: pa.Table, folder: Path, named: str | None) -> tuple[str | None, Path]:
    """The image column, or None, and the folder of its paths.

    Its cells are names of files in ``folder`` or a subfolder, or images. If no column has these, a
    column is chosen that is ``named`` or called like images, so that the check reports missing
    files instead of training on the text alone.
    """
    strings = [field.name for field in table.schema if _is_string(field.type)]
    called = _by_name(strings, "image")
    cells = {name: _cells(table[name]) for name in dict.fromkeys([*called, *strings])}
    roots = [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir())]
    for name, root in product(cells, roots):
        if _most(os.path.isfile(root / cell) for cell in cells[name]):
            return name, _common_folder(table[name]) or root
    embedded = [field.name for field in table.schema if may_embed(field.type)]
    if len(embedded) > 1:
        raise _ask("image", "hold images", embedded)
    if embedded or named:
        return (embedded or [named])[0], folder
    none = ", or --image none to leave the images out."
    for name in cells:
        if _most(cell.lower().endswith(IMAGE_SUFFIXES) for cell in cells[name]):
            raise DataError(
                f"Column {name!r} names images such as {cells[name][0]!r}, but there are no such "
                f"files in {' or '.join(map(str, roots[:_SHOWN]))}. Name their folder, as in "
                f"`epic-pl data init ... --image 'photos/2024/{{{name}}}'`, move it there{none}"
            )
    if name := next((name for name in called if {*_words(name)} <= {*_NAMES["image"]}), ""):
        return name, folder
    files = (file for root in roots for file in root.iterdir())
    if found := next((file for file in files if file.suffix.lower() in IMAGE_SUFFIXES), None):
        raise DataError(
            f"There are images such as {found}, but no column leads to them. Name a template of "
            f"their paths, as in `epic-pl data init ... --image 'photos/{{id}}.jpg'`{none}"
        )
    return None, folder


def _most(answers: Iterable[object]) -> bool:
    listed = [bool(answer) for answer in answers]
    return sum(listed) > len(listed) / 2


def _common_folder(column: pa.ChunkedArray) -> Path | None:
    """The common folder of absolute paths; None for relative ones, or if it is the root folder."""
    folders = {os.path.dirname(path.strip()) for path in column.drop_null().to_pylist()}
    common = os.path.commonpath(folders) if all(map(os.path.isabs, folders)) else "/"
    return None if common == "/" else Path(common)


def _split(table: pa.Table, names: Sequence[str]) -> str | None:
    """The first column with names of splits in all rows; one named like splits is preferred.

    Raises:
        DataError: if a column is named like splits, but no column names splits in all rows.
    """
    called = [n for n in _by_name(names, "split") if not pa.types.is_nested(table[n].type)]
    few = [n for n in names if 0 < _distinct(table[n]) <= 2 * len(SPLIT_NAMES)]
    for name in dict.fromkeys([*called, *few]):
        splits = {SPLIT_NAMES.get(cell.lower()) for cell in _counts(table[name])}
        if "train" in splits and None not in splits and (name in called or len(splits) > 1):
            return name
    if not called:
        return None
    counts = _counts(table[called[0]])
    held = [f"{cell!r} ({rows:,} rows)" for cell, rows in counts.most_common(_SHOWN)]
    raise DataError(
        f"Column {called[0]!r} is called like the splits, but holds {', '.join(held)}"
        f"{', ...' * (len(counts) > _SHOWN)}. Name a column of train (some at least), val and "
        "test by --split, or have rows drawn, as in `epic-pl data init ... --split none`."
    )


def _label(table: pa.Table, names: Sequence[str]) -> str:
    """The column named label, else the only column of lists, else the one with few values."""
    dtypes = {name: table[name].type for name in names}
    lists = [n for n in names if is_list(dtypes[n]) and _names_classes(dtypes[n].value_type)]
    # pandas writes integers with missing values as floats
    scalars = [n for n in names if _names_classes(dtypes[n]) or pa.types.is_floating(dtypes[n])]
    few = [n for n in scalars if 2 <= _distinct(table[n]) <= max(2, len(table) // 4)]
    named = _by_name([*lists, *scalars], "label")
    exact = [name for name in named if name.lower() in _NAMES["label"]]
    if exact:
        return exact[0]
    words = [name for name in few if not _measures(table[name])]
    likely = lists or [name for name in few if name in named] or words or few or named
    if not likely:
        none = f"No column looks like a label of several values; there are {table.column_names}"
        raise DataError(f"{none}. Name one, as in `data init ... --label kind`. {_QUANTITY}")
    if len(likely) > 1:
        raise _ask("label", "could be the label", likely)
    return likely[0]


def _examine_label(column: pa.Array, label: str) -> tuple[str | None, bool]:
    """The separator of labels within a cell, if any, and whether rows may have several labels.

    Raises:
        DataError: if hardly any label occurs twice, or a label looks like a missing value.
    """
    about = f"Column {label!r}, the label, has"
    lists = column if is_list(column.type) else written_lists(column)
    counts = _counts(column if lists is None else pc.list_flatten(lists))
    separator = None if lists is not None else _separator(column)
    parts = {part.strip() for cell in counts for part in cell.split(separator or "\0")} - {""}
    if missing := sorted(parts & {*MISSING}):
        raise DataError(
            f"{about} the cells {', '.join(map(repr, missing))}. If the label is missing there, "
            "leave them empty and name their split predict; if it is a class, rename it."
        )
    if lists is None and len(parts) > len(column) / 2:
        many = f"{len(parts):,} different values in {len(column):,} rows: too many"
        raise DataError(f"{about} {many}. {_QUANTITY}")
    return separator, lists is not None or separator is not None


def _separator(labels: pa.Array) -> str | None:
    """The separator of labels within a cell, if the parts recur in other cells; else None."""
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


def _texts(table: pa.Table, names: Sequence[str], needed: bool) -> list[str]:
    """Columns named like text; an error asks if only others have many distinct strings."""
    strings = [name for name in names if _is_string(table[name].type)]
    if named := _by_name(strings, "text"):
        return sorted(named, key=strings.index)
    known = [*_by_name(strings, "id"), *_by_name(strings, "no text")]
    left = [n for n in strings if n not in known and _distinct(table[n]) > 0.1 * len(table)]
    left = [n for n in left if not _most(_MEASURE.match(cell) for cell in _cells(table[n]))]
    if left and not (needed and len(left) == 1):
        raise _ask("text", "could hold the texts", left, "" if needed else ", or --text none")
    return left
