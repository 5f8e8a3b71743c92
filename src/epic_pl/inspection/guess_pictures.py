"""Which column of a table leads to pictures, and where their paths start."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from epic_pl.data.images import PICTURE_SUFFIXES
from epic_pl.inspection.column_names import by_name, is_called_picture

LOOKED_AT = 2000
"""Rows that are enough to tell what a column holds."""
_LOOKED_UP = 50


@dataclass(frozen=True)
class Pictures:
    """Where a table's pictures are.

    Attributes:
        column: what ``TableDataModule`` takes: a column's name, or a template that holds one.
        source: that column's name.
        root: the folder in which paths start.
    """

    column: str
    source: str
    root: Path


def find_pictures(table: pa.Table, strings: Sequence[str], folder: Path) -> Pictures | None:
    """The column whose cells are files, or their names without a suffix.

    Paths start in ``folder``, in one in it, or in the one in which all lie where they are whole
    paths. A column that is called like pictures, or whose cells end like them, is taken though
    nothing is there: the check will say so, and text alone is not what was meant.

    Args:
        table: as read.
        strings: its columns of strings.
        folder: where the table lies.
    """
    head = table.slice(0, LOOKED_AT)
    roots = [folder, *(sub for sub in sorted(folder.iterdir()) if sub.is_dir())]
    ranked = list(dict.fromkeys([*by_name(strings, "image"), *strings]))
    cells = {name: values(head, name) for name in ranked}
    for name in ranked:
        looked_up = cells[name][:_LOOKED_UP]
        for root in roots:
            # a few may be missing: the check will say which
            if _most(_is_file(root, value) for value in looked_up):
                return Pictures(name, name, _common_folder(values(table, name)) or root)
    found = _without_suffix(head, ranked, roots)
    if found is not None:
        return found
    for name in ranked:
        if _most(value.lower().endswith(PICTURE_SUFFIXES) for value in cells[name]):
            return Pictures(name, name, folder)
    for name in by_name(strings, "image"):
        prose = _most(" " in value for value in cells[name])
        if cells[name] and not prose and is_called_picture(name):
            return Pictures(name, name, folder)
    return None


def values(table: pa.Table, name: str) -> list[str]:
    """Cells of a column that are not empty, as strings without blanks around them."""
    cells = table[name].cast(pa.string()).drop_null().to_pylist()
    return [trimmed for cell in cells if (trimmed := cell.strip())]


def _most(answers: Iterable[bool]) -> bool:
    listed = list(answers)
    return sum(listed) > len(listed) / 2


def _without_suffix(
    head: pa.Table, strings: Sequence[str], roots: Sequence[Path]
) -> Pictures | None:
    """A column of pictures' names whose suffix the files alone have, as a template."""
    known = [name for name in by_name(head.column_names, "id") if _is_scalar(head, name)]
    columns = list(dict.fromkeys([*by_name(strings, "image"), *known]))
    for root in roots:
        suffixes = {path.stem: path.suffix for path in root.iterdir() if _is_picture(path)}
        for name in columns if suffixes else []:
            cells = values(head, name)
            found = [suffixes[cell] for cell in cells if cell in suffixes]
            if len(found) > len(cells) / 2 and not set("{}") & set(name):
                suffix = Counter(found).most_common(1)[0][0]
                return Pictures(f"{{{name}}}{suffix}", name, root)
    return None


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES


def _is_scalar(table: pa.Table, name: str) -> bool:
    kind = table.schema.field(name).type
    return bool(pa.types.is_string(kind) or pa.types.is_integer(kind))


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
