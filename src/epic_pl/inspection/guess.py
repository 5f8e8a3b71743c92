"""Guess the role of each column of a table."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.data.tables.columns import SPLIT_NAMES, may_embed
from epic_pl.data.tables.labels import is_list, written_lists
from epic_pl.errors import DataError
from epic_pl.inspection.column_names import by_name
from epic_pl.inspection.guess_pictures import Pictures, find_pictures, sample_cells

_MAX_SPLITS = 8
_SEPARATORS = ("|", ";", ",")
# with fewer rows, distinct labels say nothing
_MIN_ROWS, _MAX_DISTINCT = 10, 0.9
_OWN_CONFIG = "in a config of your own (configs/table.yaml shows one)."


@dataclass(frozen=True)
class Guess:
    """Arguments of ``TableDataModule`` that fit a table; None without such a column.

    ``image_root`` is None where paths start in the table's folder; ``unused`` are the columns
    without a role.
    """

    image_column: str | None
    text_columns: list[str]
    label_column: str
    label_separator: str | None
    split_column: str | None
    id_column: str | None
    image_root: Path | None
    multilabel: bool
    unused: list[str]


def guess_columns(table: pa.Table, folder: Path) -> Guess:
    """Guess from names and contents of a table, and from the files in its folder.

    Raises:
        DataError: no column looks like a label, or none like picture or text.
    """
    strings = [field.name for field in table.schema if _is_string(field.type)]
    embedded = [field.name for field in table.schema if may_embed(field.type)]
    if embedded:
        first = [*by_name(embedded, "image"), *embedded][0]
        pictures: Pictures | None = Pictures(first, first, folder)
    else:
        pictures = find_pictures(table, strings, folder)
    image, source = (pictures.column, pictures.source) if pictures else (None, None)
    # a template's column may be the id as well
    left = [name for name in table.column_names if name != source or image != source]
    split = next((n for n in by_name(left, "split") if _is_split(table, n)), None)
    label = _label_column(table, [name for name in left if name not in (split, source)])
    left = [name for name in left if name not in (split, label)]
    identity = next((n for n in by_name(left, "id") if _is_unique(table, n)), None)
    left = [name for name in left if name not in (identity, source)]
    texts = _text_columns(table, [name for name in left if name in strings])
    # a column that only rephrases the label is no input, unless there is no other
    inputs = [name for name in texts if not _rephrases(table, name, label)]
    texts = inputs if inputs or image else texts
    if image is None and not texts:
        raise DataError(
            f"No column looks like paths of pictures or like text; there are "
            f"{_names(table)}. Name image_column and text_columns {_OWN_CONFIG}"
        )
    lists = is_list(table.schema.field(label).type) or written_lists(table[label]) is not None
    separator = None if lists else _separator(table[label])
    return Guess(
        image_column=image,
        text_columns=texts,
        label_column=label,
        label_separator=separator,
        split_column=split,
        id_column=identity,
        image_root=None if pictures is None or pictures.root == folder else pictures.root,
        multilabel=lists or separator is not None,
        unused=[name for name in left if name not in texts],
    )


def _names(table: pa.Table) -> str:
    return ", ".join(map(repr, table.column_names))


def _is_string(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _distinct(table: pa.Table, name: str) -> int:
    return int(pc.count_distinct(table[name].cast(pa.string())).as_py())


def _is_split(table: pa.Table, name: str) -> bool:
    if not _is_string(table.schema.field(name).type):
        return False
    found = {(cell or "").strip().lower() for cell in pc.unique(table[name]).to_pylist()}
    if found <= set(SPLIT_NAMES):
        return len(found) > 1
    # a few unknown names beside "train" are typing errors, which the check reports
    return len(found) <= _MAX_SPLITS and any(SPLIT_NAMES.get(cell) == "train" for cell in found)


def _is_unique(table: pa.Table, name: str) -> bool:
    kind = table.schema.field(name).type
    scalar = _is_string(kind) or pa.types.is_integer(kind)
    return bool(scalar and _distinct(table, name) == table.num_rows)


def _label_column(table: pa.Table, names: Sequence[str]) -> str:
    kinds = {name: table.schema.field(name).type for name in names}
    usable = [name for name in names if _may_name_classes(kinds[name])]
    named = by_name(usable, "label")
    # a class has several rows; the column with the fewest values is the likeliest
    scalars = [n for n in usable if not (is_list(kinds[n]) or pa.types.is_floating(kinds[n]))]
    counts = {name: _distinct(table, name) for name in scalars}
    few = [name for name in scalars if 2 <= counts[name] <= max(2, table.num_rows // 4)]
    likely = [
        *(name for name in named if _recurs(table, name)),
        *(name for name in usable if is_list(kinds[name])),
        *sorted(few, key=lambda name: counts[name]),
        *named,
    ]
    if not likely:
        raise DataError(
            f"No column looks like a label; there are {_names(table)}. Name label_column "
            f"{_OWN_CONFIG}"
        )
    return likely[0]


def _may_name_classes(kind: pa.DataType) -> bool:
    """Strings and numbers do; lists of fractions are embeddings."""
    one = kind.value_type if is_list(kind) else kind
    # pandas writes whole numbers with gaps as floats
    number = pa.types.is_integer(one) or (pa.types.is_floating(one) and not is_list(kind))
    return _is_string(one) or bool(number or pa.types.is_boolean(one))


def _recurs(table: pa.Table, name: str) -> bool:
    """Whether rows share their labels, as far as there are enough rows to tell."""
    labels = table[name]
    if is_list(labels.type) or table.num_rows < _MIN_ROWS:
        return True
    if _separator(labels) is not None or written_lists(labels) is not None:
        return True
    return bool(_distinct(table, name) <= _MAX_DISTINCT * (len(labels) - labels.null_count))


def _rephrases(table: pa.Table, name: str, label: str) -> bool:
    """Whether a column's values and the classes are in one-to-one correspondence."""
    if is_list(table.schema.field(label).type):
        return False
    pairs = pa.table([table[each].cast(pa.string()) for each in (name, label)], ["text", "label"])
    pairs = pairs.drop_null()
    texts, classes = (len(pc.unique(pairs[each])) for each in ("text", "label"))
    both = pairs.group_by(["text", "label"]).aggregate([]).num_rows
    return 1 < classes <= len(pairs) // 2 and both == classes == texts


def _separator(labels: pa.ChunkedArray) -> str | None:
    """The separator of several labels in a cell: its parts recur in other cells."""
    if not _is_string(labels.type):
        return None
    cells = [cell for cell in labels.cast(pa.string()).drop_null().to_pylist() if cell.strip()]
    distinct = set(cells)
    for mark in _SEPARATORS:
        if sum(mark in cell for cell in cells) < max(1, 0.05 * len(cells)):
            continue
        parts = Counter(part.strip() for cell in distinct for part in set(cell.split(mark)))
        # single names hold commas as well ("Paris, France"), so a comma must explain more
        if len(parts) < len(distinct) or (mark != "," and parts.total() > len(parts)):
            return mark
    return None


def _text_columns(table: pa.Table, names: Sequence[str]) -> list[str]:
    """Columns named like text, and those with many different cells of several words."""
    named = by_name(names, "text")
    return [name for name in names if name in named or _is_prose(sample_cells(table, name))]


def _is_prose(cells: Sequence[str]) -> bool:
    # in scripts without blanks between words, characters take 3 bytes
    phrases = [
        cell
        for cell in cells
        if " " in cell or (len(cell) >= 4 and len(cell.encode()) >= 2.5 * len(cell))
    ]
    return len(phrases) > len(cells) / 2 and len(set(cells)) > len(cells) / 10
