"""Guess which column of a table leads to pictures, and where their paths start."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from epic_pl.data.images import PICTURE_SUFFIXES
from epic_pl.inspection.column_names import by_name, is_named_picture

EXAMINED_ROWS = 2000
"""Rows that are enough to tell what a column holds."""
_EXAMINED_FILES = 50


@dataclass(frozen=True)
class Pictures:
    """The pictures of a table.

    Attributes:
        column: value of ``image_column``: a column's name, or a template with one.
        source: that column's name.
        root: folder in which paths start.
    """

    column: str
    source: str
    root: Path


def find_pictures(table: pa.Table, strings: Sequence[str], folder: Path) -> Pictures | None:
    """The column whose cells are files, or their names without a suffix.

    Paths start in ``folder`` or a folder in it; absolute ones in the folder that holds them all. A
    column whose name or cells say picture is taken even if no file is there: the check reports
    that, while training on the text alone is not what was meant.

    Args:
        table: as read.
        strings: names of its string columns.
        folder: the table's folder.
    """
    head = table.slice(0, EXAMINED_ROWS)
    roots = [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir())]
    named = by_name(strings, "image")
    cells = {name: values(head, name) for name in dict.fromkeys([*named, *strings])}
    for name, paths in cells.items():
        for root in roots:
            if _most(_is_file(root, path) for path in paths[:_EXAMINED_FILES]):
                return Pictures(name, name, _common_folder(values(table, name)) or root)
    template = _without_suffix(head, named, roots)
    if template is not None:
        return template
    for name, paths in cells.items():
        if _most(path.lower().endswith(PICTURE_SUFFIXES) for path in paths):
            return Pictures(name, name, folder)
    for name in filter(is_named_picture, named):
        if _most(" " not in path for path in cells[name]):  # no prose
            return Pictures(name, name, folder)
    return None


def values(table: pa.Table, name: str) -> list[str]:
    """The cells of a column as strings, stripped; empty ones are left out."""
    cells = table[name].cast(pa.string()).drop_null().to_pylist()
    return [stripped for cell in cells if (stripped := cell.strip())]


def _most(answers: Iterable[bool]) -> bool:
    listed = list(answers)
    return sum(listed) > len(listed) / 2


def _without_suffix(head: pa.Table, named: Sequence[str], roots: Sequence[Path]) -> Pictures | None:
    """A column of file names without their suffix, as a template."""
    columns = dict.fromkeys([*named, *by_name(head.column_names, "id")])
    for root in roots:
        suffixes = {
            path.stem: path.suffix
            for path in root.iterdir()
            if path.suffix.lower() in PICTURE_SUFFIXES
        }
        for name in columns if suffixes else ():
            kind = head.schema.field(name).type
            if not (pa.types.is_string(kind) or pa.types.is_integer(kind)) or set("{}") & set(name):
                continue
            cells = values(head, name)
            found = Counter(suffixes[cell] for cell in cells if cell in suffixes)
            if found.total() > len(cells) / 2:
                return Pictures(f"{{{name}}}{found.most_common(1)[0][0]}", name, root)
    return None


def _common_folder(paths: Sequence[str]) -> Path | None:
    """The folder that holds all of these absolute paths; None if one is relative or it is ``/``."""
    if not all(Path(path).is_absolute() for path in paths):
        return None
    common = Path(os.path.commonpath([Path(path).parent for path in paths]))
    return None if common == Path(common.anchor) else common


def _is_file(root: Path, value: str) -> bool:
    try:
        return len(value) < 1024 and (root / value).is_file()
    except (OSError, ValueError):  # no path at all: too long, or with a NUL
        return False
