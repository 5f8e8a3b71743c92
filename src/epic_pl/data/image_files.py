"""Which images of a dataset can be used, looked up once, and what becomes of rows with bad ones."""

import os
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.data.row_cache import ImageRecord
from epic_pl.data.rows import Rows
from epic_pl.errors import DataError

BadSamplePolicy = Literal["error", "skip", "absent"]

_THREADS = 8
_SHOWN = 5  # rows named in a message


def usable_rows(
    rows: Rows, policy: BadSamplePolicy, read: Callable[[str], Any]
) -> tuple[pa.Table, str]:
    """Refuse, drop or strip the rows whose image is bad.

    Args:
        rows: to look through.
        policy: ``error`` refuses missing images, and leaves it to training to find corrupt ones;
            ``skip`` leaves rows of either kind out; ``absent`` keeps their text alone (rows without
            one are left out).
        read: decodes an image by its path, or raises a DataError.

    Returns:
        The usable rows, and a note that counts the others (empty where there are none).

    Raises:
        DataError: an image is missing under ``error``, or lies outside of the image root.
    """
    table, root = rows.table, rows.image_root.resolve()
    paths = pc.unique(table["image"]).drop_null().to_pylist()
    refuse_outside(paths, root, rows.source)
    bad = missing_images(paths, root)
    if policy != "error":
        there = [path for path in paths if path not in bad]
        bad |= ImageRecord(root).unreadable(there, read)
    hit = pc.is_in(table["image"], value_set=pa.array(list(bad), pa.string()))
    count = pc.sum(hit).as_py() or 0
    if not count:
        return table, ""
    if policy == "error":
        first = table.filter(hit).slice(0, _SHOWN).to_pylist()
        names = ", ".join(f"{row['sample_id']} ({row['image']})" for row in first)
        raise DataError(
            f"{rows.source}: {len(bad):,} images under {root} cannot be used; {count:,} rows "
            f"name them: {names}{', ...' if count > _SHOWN else ''}. The first: "
            f"{bad[first[0]['image']]}. Correct the paths or image_root, or set on_bad_sample to "
            "skip or absent."
        )
    if policy == "skip":
        return table.filter(pc.invert(hit)), f"{count:,} rows skipped for their image"
    images = pc.if_else(hit, None, table["image"])
    table = table.set_column(table.column_names.index("image"), "image", images)
    empty = pc.and_(pc.is_null(table["image"]), pc.is_null(table["text"]))
    note = f"{count:,} rows without their image, which is bad"
    if dropped := pc.sum(empty).as_py():
        note += f"; {dropped:,} of them skipped, having no text either"
    return table.filter(pc.invert(empty)), note


def leads_out(path: str, root: Path) -> bool:
    """Whether a path leaves the image root; links are not followed."""
    if not os.path.isabs(path) and ".." not in path:
        return False
    return not Path(os.path.normpath(os.path.join(root, path))).is_relative_to(root)


def refuse_outside(paths: Collection[str], root: Path, source: Path) -> None:
    """Refuse paths that leave the image root."""
    outside = [path for path in paths if leads_out(path, root)]
    if outside:
        raise DataError(
            f"{source}: {len(outside):,} image paths lead out of the image root {root}, for "
            f"example {outside[0]!r}. Move these images into it and correct the paths; for a "
            "table of your own set image_root to a folder that holds them all."
        )


def image_file(root: Path, path: str) -> Path:
    """The file that an image's path leads to, links followed."""
    try:
        return (root / path).resolve()
    # a NUL character; a circle, by the version of Python
    except (ValueError, RuntimeError, OSError) as error:
        raise DataError(
            f"Image {path!r} below {root} leads to no file: {error}. Correct the path or the "
            "link, or leave the image out of the table."
        ) from error


def missing_images(paths: Collection[str], root: Path) -> dict[str, str]:
    """Paths that are no file, each with a problem."""
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda path: os.path.isfile(root / path), paths, chunksize=256)
        return {
            path: f"there is no such file{missing_hint(path)}"
            for path, is_file in zip(paths, found, strict=True)
            if not is_file
        }


def missing_hint(path: str) -> str:
    """The way out for a path that is no file, where it shows; follows the problem in a message."""
    if path.startswith(("http://", "https://")):
        return "; it is an address: fetch the image and name the file"
    return "; write the path with / instead of \\" if "\\" in path else ""
