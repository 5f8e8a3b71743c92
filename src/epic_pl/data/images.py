"""Reading of image files, and handling of rows whose images cannot be read."""

import io
import os
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from epic_pl.data.decoding import BROKEN, MAX_PIXELS, decode
from epic_pl.data.row_cache import ImageRecord, image_states
from epic_pl.data.rows import Rows, empty_rows
from epic_pl.utils.errors import DataError, first_line
from epic_pl.utils.untrusted import OutsideError, open_below, open_regular

BadSamplePolicy = Literal["error", "skip", "absent"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_SHOWN = 5  # number of rows that a message names


def read_image(
    source: Path | bytes,
    min_size: int | None = None,
    max_pixels: int = MAX_PIXELS,
    root: Path | None = None,
) -> Image.Image:
    """Read an image as upright 8-bit RGB.

    EXIF orientation is applied, transparency is put on white, palette, CMYK and 16-bit images are
    converted, and the first frame of an animation is taken.

    Args:
        source: path of the file, or its content.
        min_size: minimum side in pixels. If given, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its
            size, several times faster, as long as no side becomes shorter than this.
        max_pixels: maximum number of pixels; larger images are not decoded.
        root: resolved folder that the path is relative to, and that no link may leave.

    Raises:
        DataError: if the file is missing, empty, truncated, not an image of :data:`FORMATS`,
            larger than ``max_pixels``, or outside of ``root``.
    """
    if isinstance(source, bytes):
        name = f"of {len(source):,} bytes"
    else:
        name = str(source if root is None else root / source)
    try:
        with _opened(source, root) as file:
            return decode(file, min_size, max_pixels)
    except FileNotFoundError as error:
        hint = _hint(str(source))
        raise DataError(f"Image {name} does not exist{hint}. Correct its path.") from error
    except OutsideError as error:
        raise DataError(
            f"Image {error}, the image root. Move it, or choose a root that holds all link targets."
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"Image {name} is too large: {error}; the limit is {max_pixels:,} pixels. Shrink it."
        ) from error
    except BROKEN as error:
        raise DataError(
            f"Image {name} cannot be read: {first_line(error)}. Fetch it again, or leave it out."
        ) from error


def _opened(source: Path | bytes, root: Path | None) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    return open_regular(source) if root is None else open_below(root, source)


def usable_rows(
    rows: Rows,
    policy: BadSamplePolicy,
    min_size: int | None,
    states: Mapping[str, str | None] | None = None,
) -> tuple[pa.Table, str]:
    """Drop or refuse rows that have a bad image, or neither image nor text.

    Args:
        rows: rows to check.
        policy: ``error`` refuses missing images and empty rows, and does not search for corrupt
            images; ``skip`` drops all these rows; ``absent`` keeps those that have a text.
        min_size: as in :func:`read_image`.
        states: states of the rows' images from :func:`~epic_pl.data.row_cache.image_states`; None
            determines them here.

    Returns:
        The usable rows, and a note that counts and names the dropped ones, empty without any.

    Raises:
        DataError: if an image lies outside of the image root, or the policy is ``error`` and an
            image is missing or a row is empty.
    """
    table, root = rows.table, rows.image_root.resolve()
    paths = pc.unique(table["image"]).drop_null().to_pylist()
    refuse_outside(paths, root, rows.source)
    states = image_states(paths, root) if states is None else states
    bad = {path: f"there is no such file{_hint(path)}" for path in paths if states[path] is None}
    if policy != "error":
        there = {path: state for path in paths if (state := states[path]) is not None}
        read = partial(read_image, min_size=min_size, root=root)
        bad |= ImageRecord(root).unreadable(there, read)
    hit = pc.is_in(table["image"], value_set=pa.array(list(bad), pa.string()))
    if policy == "absent":
        images = pc.if_else(hit, None, table["image"])
        table = table.set_column(table.column_names.index("image"), "image", images)
    empty = empty_rows(table)
    image = {"skip": ", skipped", "absent": ", used without it"}.get(policy, "")
    both = "" if policy == "error" else ", skipped"
    named = _named(table, hit, f"rows with a bad image{image}")
    note = ", ".join([*named, *_named(table, empty, f"rows with neither image nor text{both}")])
    if not note:
        return table, ""
    if policy == "error":
        first = next((f" The first: {path} under {root}: {bad[path]}." for path in bad), "")
        raise DataError(
            f"{rows.source} (row numbers count from 0): {note}.{first} Correct the cells or "
            "image_root, drop the rows, or set on_bad_sample to skip or absent. `epic-pl data "
            "check` finds images that cannot be decoded, too."
        )
    return table.filter(pc.invert(empty if policy == "absent" else pc.or_(hit, empty))), note


def _named(table: pa.Table, mask: Any, words: str) -> list[str]:
    """A note of ``words``, the number of rows in a mask, and the first ids; empty without rows."""
    ids = table["sample_id"].filter(mask)
    shown = ", ".join(ids.slice(0, _SHOWN).to_pylist()) + ", ..." * (len(ids) > _SHOWN)
    return [f"{words}: {len(ids):,} ({shown})"] if len(ids) else []


def refuse_outside(paths: Collection[str], root: Path, source: Path) -> None:
    """Refuse paths that leave the image root, without following links."""
    outside = [
        path
        for path in paths
        if (os.path.isabs(path) or ".." in path)
        and not Path(os.path.normpath(root / path)).is_relative_to(root)
    ]
    if outside:
        raise DataError(
            f"{source}: image paths lead out of the image root {root} ({len(outside):,} of "
            f"{len(paths):,}), such as {outside[0]!r}. Move them, or set image_root above them all."
        )


def _hint(path: str) -> str:
    """Advice to end a message with, if a path shows what is wrong with it; else empty."""
    if path.startswith(("http://", "https://")):
        return "; it is an address: fetch the image and name the file"
    return "; write the path with / instead of \\" if "\\" in path else ""
