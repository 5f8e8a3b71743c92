"""Which column of a table is what."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.data.table_columns import SPLIT_NAMES
from epic_pl.data.table_embedded import may_embed
from epic_pl.data.table_labels import is_list
from epic_pl.errors import DataError

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_NAMES = {
    "image": ("image", "img", "picture", "photo", "file_name", "filename", "file", "path"),
    "text": ("text", "title", "caption", "sentence", "description", "hypothesis", "question"),
    "label": ("label", "labels", "class", "category", "target", "genre", "genres", "tags"),
    "split": ("split", "set", "subset", "partition", "fold"),
    "id": ("id", "sample_id", "uid", "key", "index"),
}
_LOOKED_AT = 2000
_SEPARATORS = ("|", ";", ",")


@dataclass(frozen=True)
class Guess:
    """Arguments of ``TableDataModule`` that fit a table; None where there is no such column."""

    image_column: str | None
    text_columns: list[str]
    label_column: str
    label_separator: str | None
    split_column: str | None
    id_column: str | None
    image_root: Path
    multilabel: bool


def guess_columns(table: pa.Table, folder: Path) -> Guess:
    """Guess from names and contents.

    Args:
        table: as read.
        folder: where it lies; pictures may be in a folder of it.

    Raises:
        DataError: no column looks like a label, or none like picture or text.
    """
    head = table.slice(0, _LOOKED_AT)
    strings = [f.name for f in table.schema if _is_string(f.type)]
    embedded = [f.name for f in table.schema if may_embed(f.type)]
    if embedded:
        image, root = [*_by_name(embedded, "image"), *embedded][0], folder
    else:
        image, root = _image_column(head, strings, folder)
    left = [name for name in table.column_names if name != image]
    split = _first(left, "split", lambda name: _is_split(table, name))
    left = [name for name in left if name != split]
    label = _label_column(table, left)
    left = [name for name in left if name != label]
    identity = _first(left, "id", lambda name: _is_unique(table, name))
    texts = _text_columns(head, [name for name in left if name != identity and name in strings])
    if image is None and not texts:
        raise DataError(
            f"No column looks like paths of pictures or like text; there are "
            f"{', '.join(map(repr, table.column_names))}. Name image_column and text_columns in a "
            "config of your own (configs/table.yaml shows one)."
        )
    lists = is_list(table.schema.field(label).type)
    separator = None if lists else _separator(table[label])
    return Guess(
        image_column=image,
        text_columns=texts,
        label_column=label,
        label_separator=separator,
        split_column=split,
        id_column=identity,
        image_root=root,
        multilabel=lists or separator is not None,
    )


def _is_string(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _words(name: str) -> set[str]:
    """Parts of a column's name: ``imagePath`` and ``image_path`` hold image and path."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return {spaced.lower(), *re.split(r"[^a-z0-9]+", spaced.lower())}


def _by_name(names: Iterable[str], role: str) -> list[str]:
    """Columns that are called like a role, the clearest name first."""
    known = _NAMES[role]
    ranked = [
        (min(known.index(word) for word in _words(name) & set(known)), index, name)
        for index, name in enumerate(names)
        if _words(name) & set(known)
    ]
    return [name for _, _, name in sorted(ranked)]


def _first(names: Sequence[str], role: str, fits: object) -> str | None:
    assert callable(fits)
    return next((name for name in _by_name(names, role) if fits(name)), None)


def _values(table: pa.Table, name: str) -> list[str]:
    values = table[name].cast(pa.string()).drop_null().to_pylist()
    return [value for value in values if value.strip()]


def _image_column(head: pa.Table, strings: Sequence[str], folder: Path) -> tuple[str | None, Path]:
    """The column whose cells are files, and the folder they start from.

    That is ``folder``, one in it, or the one in which all lie where they are whole paths.
    """
    roots = [folder, *(sub for sub in sorted(folder.iterdir()) if sub.is_dir())]
    ranked = [*_by_name(strings, "image"), *strings]
    named = None
    for name in dict.fromkeys(ranked):
        values = _values(head, name)[:50]
        if not values:
            continue
        for root in roots:
            # a few may be missing: the check will say which
            if sum(_is_file(root, value) for value in values) > len(values) / 2:
                return name, _common_folder(_values(head, name)) or root
        if sum(value.lower().endswith(_SUFFIXES) for value in values) > len(values) / 2:
            named = named or name
    return named, folder


def _common_folder(paths: Sequence[str]) -> Path | None:
    """The folder in which all whole paths lie; None where some are not whole or share none."""
    if not all(Path(path).is_absolute() for path in paths):
        return None
    common = Path(os.path.commonpath([Path(path).parent for path in paths]))
    return None if common == Path(common.anchor) else common


def _is_file(root: Path, value: str) -> bool:
    # a text may be too long for a file's name, or hold a NUL
    try:
        return len(value) < 1024 and (root / value).is_file()
    except (OSError, ValueError):
        return False


def _is_split(table: pa.Table, name: str) -> bool:
    if not _is_string(table.schema.field(name).type) or table[name].null_count:
        return False
    found = {str(value).strip().lower() for value in pc.unique(table[name]).to_pylist()}
    return found <= set(SPLIT_NAMES) and len(found) > 1


def _is_unique(table: pa.Table, name: str) -> bool:
    kind = table.schema.field(name).type
    if not (_is_string(kind) or pa.types.is_integer(kind)) or table[name].null_count:
        return False
    return bool(pc.count_distinct(table[name].cast(pa.string())).as_py() == table.num_rows)


def _label_column(table: pa.Table, names: Sequence[str]) -> str:
    for name in _by_name(names, "label"):
        if not pa.types.is_struct(table.schema.field(name).type):
            return name
    counts = {}
    for name in names:
        kind = table.schema.field(name).type
        if is_list(kind):
            return name
        if _is_string(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            counts[name] = pc.count_distinct(table[name].cast(pa.string())).as_py()
    # a class has several rows; the column with the fewest classes is the likeliest
    likely = {name: n for name, n in counts.items() if 2 <= n <= max(2, table.num_rows // 4)}
    if not likely:
        raise DataError(
            f"No column looks like a label; there are {', '.join(map(repr, table.column_names))}. "
            "Name label_column in a config of your own (configs/table.yaml shows one)."
        )
    return min(likely, key=lambda name: likely[name])


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
    """Columns called like text, and those that read like it: varied, with blanks in them."""
    return [
        name
        for name in names
        if _words(name) & set(_NAMES["text"])
        or (
            (values := _values(head, name))
            and sum(" " in value.strip() for value in values) > len(values) / 2
            and len(set(values)) > len(values) / 10
        )
    ]
