"""Which column of a table is what."""

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
from epic_pl.inspection.column_names import by_name, roles
from epic_pl.inspection.guess_pictures import LOOKED_AT, Pictures, find_pictures, values

_MOST_SPLITS = 8
# of one character, in UTF-8: scripts that put no blank between words have three
_BYTES_WITHOUT_BLANKS, _FEWEST_CHARACTERS = 2.5, 4
_SEPARATORS = ("|", ";", ",")
_TELLING_ROWS = 10
_MOST_DISTINCT = 0.9


@dataclass(frozen=True)
class Guess:
    """Arguments of ``TableDataModule`` that fit a table; None where there is no such column.

    ``image_root`` is None where paths start in the table's folder; ``unused`` are the columns that
    none of the arguments names.
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
        folder: where it lies; pictures may be in a folder of it.

    Raises:
        DataError: no column looks like a label, or none like picture or text.
    """
    strings = [f.name for f in table.schema if _is_string(f.type)]
    embedded = [f.name for f in table.schema if may_embed(f.type)]
    if embedded:
        first = [*by_name(embedded, "image"), *embedded][0]
        pictures: Pictures | None = Pictures(first, first, folder)
    else:
        pictures = find_pictures(table, strings, folder)
    image, source = (pictures.column, pictures.source) if pictures else (None, None)
    left = list(table.column_names)
    if image == source:  # of a template it may be the id as well
        left = [name for name in left if name != source]
    split = _first(left, "split", lambda name: _is_split(table, name))
    left = [name for name in left if name != split]
    label = _label_column(table, [name for name in left if name != source])
    left = [name for name in left if name != label]
    identity = _first(left, "id", lambda name: _is_unique(table, name))
    left = [name for name in left if name not in (identity, source)]
    texts = _text_columns(table.slice(0, LOOKED_AT), [name for name in left if name in strings])
    told = [name for name in texts if not _names_label(table, name, label)]
    texts = told if told or image else texts  # nothing else is there to learn from
    if image is None and not texts:
        raise DataError(
            f"No column looks like paths of pictures or like text; there are "
            f"{', '.join(map(repr, table.column_names))}. Name image_column and text_columns in a "
            "config of your own (configs/table.yaml shows one)."
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


def _is_string(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _first(names: Sequence[str], role: str, fits: object) -> str | None:
    assert callable(fits)
    return next((name for name in by_name(names, role) if fits(name)), None)


def _is_split(table: pa.Table, name: str) -> bool:
    if not _is_string(table.schema.field(name).type):
        return False
    cells = pc.unique(table[name]).to_pylist()
    found = {"" if cell is None else cell.strip().lower() for cell in cells}
    if found <= set(SPLIT_NAMES):
        return len(found) > 1
    # beside "train" a few unknown names, or none, are slips, which the check names
    return len(found) <= _MOST_SPLITS and any(SPLIT_NAMES.get(cell) == "train" for cell in found)


def _is_unique(table: pa.Table, name: str) -> bool:
    kind = table.schema.field(name).type
    if not (_is_string(kind) or pa.types.is_integer(kind)) or table[name].null_count:
        return False
    return bool(pc.count_distinct(table[name].cast(pa.string())).as_py() == table.num_rows)


def _label_column(table: pa.Table, names: Sequence[str]) -> str:
    kinds = {name: table.schema.field(name).type for name in names}
    called = [name for name in by_name(names, "label") if _may_name_classes(kinds[name])]
    recurring = [name for name in called if _recurs(table, name)]
    if recurring:
        return recurring[0]
    counts = {}
    for name, kind in kinds.items():
        if is_list(kind) and _may_name_classes(kind):
            return name
        if _is_string(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            counts[name] = pc.count_distinct(table[name].cast(pa.string())).as_py()
    # a class has several rows; the column with the fewest classes is the likeliest
    likely = {name: n for name, n in counts.items() if 2 <= n <= max(2, table.num_rows // 4)}
    if called and not likely:
        return called[0]
    if not likely:
        raise DataError(
            f"No column looks like a label; there are {', '.join(map(repr, table.column_names))}. "
            "Name label_column in a config of your own (configs/table.yaml shows one)."
        )
    return min(likely, key=lambda name: likely[name])


def _may_name_classes(kind: pa.DataType) -> bool:
    """Numbers with a fraction name none in a list: that is an embedding."""
    several = is_list(kind)
    one = kind.value_type if several else kind
    if _is_string(one) or pa.types.is_integer(one):
        return True
    # of others the check says what is wrong with them
    return not several and (pa.types.is_boolean(one) or pa.types.is_floating(one))


def _recurs(table: pa.Table, name: str) -> bool:
    """Whether rows share their class with others, as far as there are rows enough to tell."""
    labels = table[name]
    if is_list(labels.type) or table.num_rows < _TELLING_ROWS:
        return True
    if _separator(labels) is not None or written_lists(labels) is not None:
        return True
    cells = labels.cast(pa.string()).drop_null()
    return bool(pc.count_distinct(cells).as_py() <= _MOST_DISTINCT * len(cells))


def _names_label(table: pa.Table, name: str, label: str) -> bool:
    """Whether a column says in other words what the label says, and no more."""
    if is_list(table.schema.field(label).type):
        return False
    pairs = pa.table([table[each].cast(pa.string()) for each in (name, label)], ["text", "label"])
    pairs = pairs.drop_null()
    classes = len(pc.unique(pairs["label"]))
    if not 1 < classes <= len(pairs) // 2:
        return False
    both: int = pairs.group_by(["text", "label"]).aggregate([]).num_rows
    return both == classes == len(pc.unique(pairs["text"]))


def _separator(labels: pa.ChunkedArray) -> str | None:
    """What separates several labels of a cell: its parts must recur in other cells."""
    if not _is_string(labels.type):
        return None
    cells = [cell for cell in labels.cast(pa.string()).drop_null().to_pylist() if cell.strip()]
    distinct = set(cells)
    for mark in _SEPARATORS:
        if sum(mark in cell for cell in cells) < max(1, 0.05 * len(cells)):
            continue
        parts = Counter(part.strip() for cell in distinct for part in set(cell.split(mark)))
        # a comma is at home in a single name as well ("Paris, France"), so it must explain more
        if len(parts) < len(distinct) or (mark != "," and parts.total() > len(parts)):
            return mark
    return None


def _text_columns(head: pa.Table, names: Sequence[str]) -> list[str]:
    """Columns called like text, and those that read like it: varied, with words in them."""
    return [
        name
        for name in names
        if "text" in roles(name)
        or (
            (cells := values(head, name))
            and sum(map(_has_words, cells)) > len(cells) / 2
            and len(set(cells)) > len(cells) / 10
        )
    ]


def _has_words(cell: str) -> bool:
    dense = len(cell.encode()) >= _BYTES_WITHOUT_BLANKS * len(cell)
    return " " in cell or (dense and len(cell) >= _FEWEST_CHARACTERS)
