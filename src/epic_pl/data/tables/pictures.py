"""Which pictures of a table cannot be used, and what becomes of their rows."""

import os
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from epic_pl.data.images import read_image
from epic_pl.errors import ConfigError, DataError

BadSamplePolicy = Literal["error", "skip", "absent"]
_THREADS = 8
_LOOKED_UP = 256


def check_policy(policy: str) -> None:
    """Look whether there is such a policy.

    Raises:
        ConfigError: if not.
    """
    known = get_args(BadSamplePolicy)
    if policy not in known:
        raise ConfigError(f"on_bad_sample must be one of {', '.join(known)}; got {policy!r}.")


def distinct_paths(table: pa.Table) -> list[str]:
    """Paths of a table's pictures, each once."""
    return [path for path in pc.unique(table["image"]).to_pylist() if path is not None]


def refuse_outside(paths: Collection[str], root: Path) -> None:
    """Refuse paths that leave the image root.

    Raises:
        DataError: naming the first of them.
    """
    outside = [path for path in paths if leads_out(path, root)]
    if outside:
        raise DataError(
            f"{len(outside):,} picture paths lead out of the image root {root}, for example "
            f"{outside[0]!r}. Set image_root to a folder that holds them all, or allow_outside to "
            "true if you trust the table."
        )


def leads_out(path: str, root: Path) -> bool:
    """Whether a path leaves the image root; links are not followed."""
    if not os.path.isabs(path) and ".." not in path:
        return False
    return not Path(os.path.normpath(os.path.join(root, path))).is_relative_to(root)


def missing_pictures(paths: Collection[str], root: Path) -> dict[str, str]:
    """Paths that are no file, each with what is wrong."""
    base, names = str(root), list(paths)

    def missing(start: int) -> list[str]:
        part = names[start : start + _LOOKED_UP]
        return [path for path in part if not os.path.isfile(os.path.join(base, path))]

    # many at a time: on a local disk, handing a path to a thread takes longer than to look it up
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(missing, range(0, len(names), _LOOKED_UP))
        return {
            path: f"there is no such file{missing_hint(path)}" for part in found for path in part
        }


def missing_hint(path: str) -> str:
    """The way out for a path that is no file, where it shows; to be put behind what is wrong."""
    if path.startswith(("http://", "https://")):
        return "; it is an address: fetch the picture and name the file"
    return "; write the path with / instead of \\" if "\\" in path else ""


def unreadable_pictures(
    paths: Collection[str], root: Path, min_size: int | None = None
) -> dict[str, str]:
    """Paths whose picture cannot be decoded, each with what is wrong."""

    def problem(path: str) -> str | None:
        try:
            read_image(root / path, min_size)
        except DataError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(_THREADS) as pool:
        found = zip(paths, pool.map(problem, paths), strict=True)
        return {path: why for path, why in found if why is not None}


def apply_policy(
    table: pa.Table, bad: Mapping[str, str], policy: BadSamplePolicy, root: Path
) -> tuple[pa.Table, str]:
    """What becomes of rows whose picture is bad.

    Args:
        table: with columns ``image`` and ``text``.
        bad: path to problem.
        policy: ``error`` refuses; ``skip`` leaves the rows out; ``absent`` keeps their text alone
            (rows without one are left out).
        root: image root, for the message.

    Returns:
        The table, and a sentence that counts what was done (empty where nothing was).

    Raises:
        DataError: policy ``error``, naming rows.
    """
    if not bad:
        return table, ""
    hit = pc.is_in(table["image"], value_set=pa.array(list(bad), pa.string())).combine_chunks()
    count = pc.sum(hit).as_py() or 0
    if not count:
        return table, ""
    if policy == "error":
        first = next(path for path in bad if path is not None)
        ids = table["sample_id"].combine_chunks()
        names = ", ".join(
            f"{ids[int(r)].as_py()} ({table['image'][int(r)].as_py()})"
            for r in np.flatnonzero(np.asarray(hit))[:5]
        )
        raise DataError(
            f"{len(bad):,} pictures under {root} cannot be used; {count:,} rows name them: "
            f"{names}{', ...' if count > 5 else ''}. The first: {bad[first]}. Mend the paths or "
            "image_root, or set on_bad_sample to skip or absent."
        )
    if policy == "skip":
        return table.filter(pc.invert(hit)), f"{count:,} rows skipped for their picture"
    images = pc.if_else(hit, None, table["image"])
    table = table.set_column(table.column_names.index("image"), "image", images)
    empty = pc.and_(pc.is_null(table["image"]), pc.is_null(table["text"]))
    dropped = pc.sum(empty).as_py() or 0
    note = f"{count:,} rows without their picture, which is bad"
    if dropped:
        note += f"; {dropped:,} of them skipped, having no text either"
    return table.filter(pc.invert(empty)), note
