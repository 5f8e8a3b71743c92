"""Unpacking of images that a table holds as bytes to files in the cache.

The name of a file is the digest of its content, so that copies of an image share a file.
"""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.data.rows import describe_rows
from epic_pl.data.tables.columns import is_bytes, may_embed
from epic_pl.utils.assets.cache import cache_dir
from epic_pl.utils.errors import DataError, raised_as


def embedded_folder() -> Path:
    """The folder ``images`` in the cache folder."""
    return (cache_dir() / "images").resolve()


def unpack_images(table: pa.Table, name: str | None) -> tuple[pa.Table, Path | None]:
    """Write a column's images to files, and replace them by the files' paths.

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
        if pc.any(elsewhere).as_py():
            raise DataError(
                f"Column {name!r} holds the bytes of images, but only a path in "
                f"{describe_rows(elsewhere)}. Put the bytes there too, or use paths in all rows."
            )
    problem = f"Images of column {name!r} cannot be written to {embedded_folder()}"
    with raised_as(DataError, problem, "Free some space, or set EPIC_PL_CACHE.", OSError):
        paths = [_unpacked(cell) for chunk in content.chunks for cell in chunk]
    at = table.column_names.index(name)
    return table.set_column(at, name, pa.array(paths, pa.string())), embedded_folder()


def _unpacked(cell: Any) -> str | None:
    """Path of an image below :func:`embedded_folder`; the file is written if it is missing."""
    if not cell.is_valid:
        return None
    content = cell.as_buffer()
    digest = hashlib.sha256(content).hexdigest()
    path = f"{digest[:2]}/{digest}"
    file = embedded_folder() / path
    if not file.is_file() or file.stat().st_size != content.size:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return path
