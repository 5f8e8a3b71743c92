"""Guess which column of a table leads to pictures, and where their paths start."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from epic_pl.data.images import PICTURE_SUFFIXES
from epic_pl.inspection.column_names import by_name, is_named_picture

_EXAMINED_ROWS, _EXAMINED_FILES = 2000, 50


class Pictures(NamedTuple):
    """A column, or a template with one, that name's column, and the folder where paths start."""

    column: str
    source: str
    root: Path


def find_pictures(table: pa.Table, strings: Sequence[str], folder: Path) -> Pictures | None:
    """The column whose cells are files, or their names without a suffix.

    Paths start in ``folder`` or a folder in it; absolute ones in the folder that holds them all. A
    column whose name or cells say picture is taken even if no file is there: the check reports
    that, while training on the text alone is not what was meant.
    """
    named = by_name(strings, "image")
    cells = {name: sample_cells(table, name) for name in dict.fromkeys([*named, *strings])}
    roots = [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir())]
    for name, paths in cells.items():
        for root in roots:
            if _most(_is_file(root, path) for path in paths[:_EXAMINED_FILES]):
                return Pictures(name, name, _common_folder(table[name]) or root)
    columns = dict.fromkeys([*named, *by_name(table.column_names, "id")])
    for root in roots:
        files = [path for path in root.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES]
        suffixes = {path.stem: path.suffix for path in files}
        for name in columns if suffixes else ():
            stems = sample_cells(table, name)
            found = Counter(suffixes[stem] for stem in stems if stem in suffixes)
            if found.total() > len(stems) / 2 and not set("{}") & set(name):
                return Pictures(f"{{{name}}}{found.most_common(1)[0][0]}", name, root)
    for name, paths in cells.items():
        if _most(path.lower().endswith(PICTURE_SUFFIXES) for path in paths) or (
            is_named_picture(name) and _most(" " not in path for path in paths)
        ):
            return Pictures(name, name, folder)
    return None


def sample_cells(table: pa.Table, name: str) -> list[str]:
    """First cells of a column as strings, stripped, without empty ones; none of nested types."""
    column = table[name].slice(0, _EXAMINED_ROWS)
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        return []
    cells = column.cast(pa.string()).drop_null().to_pylist()
    return [stripped for cell in cells if (stripped := cell.strip())]


def _most(answers: Iterable[bool]) -> bool:
    listed = list(answers)
    return sum(listed) > len(listed) / 2


def _common_folder(column: pa.ChunkedArray) -> Path | None:
    """The folder that holds all paths if they are absolute, unless it is the root folder."""
    paths = [Path(path.strip()) for path in column.drop_null().to_pylist() if path.strip()]
    if not all(path.is_absolute() for path in paths):
        return None
    common = Path(os.path.commonpath([path.parent for path in paths]))
    return None if common == Path(common.anchor) else common


def _is_file(root: Path, value: str) -> bool:
    try:
        return len(value) < 1024 and (root / value).is_file()
    except (OSError, ValueError):  # no path at all: too long, or with a NUL
        return False
