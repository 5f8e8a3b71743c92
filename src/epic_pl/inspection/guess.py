"""Guess the role of each column of a table."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.data.tables.columns import SPLIT_NAMES
from epic_pl.data.tables.embedded import may_embed
from epic_pl.data.tables.labels import is_list, written_lists
from epic_pl.errors import DataError
from epic_pl.inspection.column_names import by_name
from epic_pl.inspection.guess_pictures import EXAMINED_ROWS, Pictures, find_pictures, values

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
    """Guess from names and contents.

    Args:
        table: as read.
        folder: the table's folder; pictures may be in a folder of it.

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
    left = list(table.column_names)
    if image == source:  # a template's column may be the id as well
        left = [name for name in left if name != source]
    split = next((n for n in by_name(left, "split") if _is_split(table, n)), None)
    label = _label_column(table, [name for name in left if name not in (split, source)])
    left = [name for name in left if name not in (split, label)]
    identity = next((n for n in by_name(left, "id") if _is_unique(table, n)), None)
    left = [name for name in left if name not in (identity, source)]
    texts = _text_columns(table.slice(0, EXAMINED_ROWS), [n for n in left if n in strings])
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
    count: int = pc.count_distinct(table[name].cast(pa.string())).as_py()
    return count


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
    if not (_is_string(kind) or pa.types.is_integer(kind)) or table[name].null_count:
        return False
    return bool(_distinct(table, name) == table.num_rows)


def _label_column(table: pa.Table, names: Sequence[str]) -> str:
    kinds = {name: table.schema.field(name).type for name in names}
    usable = [name for name in names if _may_name_classes(kinds[name])]
    named = by_name(usable, "label")
    likely = [name for name in named if _recurs(table, name)]
    likely += [name for name in usable if is_list(kinds[name])]
    if likely:
        return likely[0]
    # a class has several rows; the column with the fewest values is the likeliest
    scalars = [name for name in usable if not pa.types.is_floating(kinds[name])]
    counts = {name: _distinct(table, name) for name in scalars}
    likely = [name for name in scalars if 2 <= counts[name] <= max(2, table.num_rows // 4)]
    if likely:
        return min(likely, key=lambda name: counts[name])
    if named:
        return named[0]
    raise DataError(
        f"No column looks like a label; there are {_names(table)}. Name label_column {_OWN_CONFIG}"
    )


def _may_name_classes(kind: pa.DataType) -> bool:
    """Strings and whole numbers do; lists of fractions are embeddings."""
    if is_list(kind):
        return _is_string(kind.value_type) or bool(pa.types.is_integer(kind.value_type))
    primitive = pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_floating(kind)
    return _is_string(kind) or bool(primitive)


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
    classes = len(pc.unique(pairs["label"]))
    distinct: int = pairs.group_by(["text", "label"]).aggregate([]).num_rows
    return 1 < classes <= len(pairs) // 2 and (distinct == classes == len(pc.unique(pairs["text"])))


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


def _text_columns(head: pa.Table, names: Sequence[str]) -> list[str]:
    """Columns named like text, and those with many different cells of several words."""
    named = by_name(names, "text")
    return [name for name in names if name in named or _is_prose(values(head, name))]


def _is_prose(cells: Sequence[str]) -> bool:
    prose = sum(" " in cell or _is_dense(cell) for cell in cells)
    return prose > len(cells) / 2 and len(set(cells)) > len(cells) / 10


def _is_dense(cell: str) -> bool:
    """Whether a cell may be a phrase of a script without blanks, whose characters take 3 bytes."""
    return len(cell) >= 4 and len(cell.encode()) >= 2.5 * len(cell)
