"""Decode every picture of a dataset once, in parallel."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path

from PIL import Image

from epic_pl.data.images import FORMATS, read_image
from epic_pl.data.pictures import missing_hint, picture_file
from epic_pl.errors import DataError

# for fewer pictures, starting processes costs more than it saves
_MIN_POOLED = 256
_CHUNK = 32


@dataclass(frozen=True)
class PictureFacts:
    """Facts about one picture.

    Attributes:
        width: in pixels, as stored; 0 if unknown.
        height: likewise.
        content: hash of the file's bytes; empty without a file.
        kind: empty for a sound picture, else ``missing``, ``outside`` or ``corrupt``.
        problem: in words.
    """

    width: int = 0
    height: int = 0
    content: str = ""
    kind: str = ""
    problem: str = ""


def inspect_picture(path: str, root: Path, min_size: int | None) -> PictureFacts:
    """Decode a picture file as training does."""
    try:
        full = picture_file(root, path)
    except DataError as error:
        return PictureFacts(kind="missing", problem=str(error))
    if not full.is_relative_to(root):
        return PictureFacts(kind="outside", problem=f"{full} is outside of the image root {root}")
    try:
        content = _digest(full.read_bytes())
    except FileNotFoundError:
        return PictureFacts(kind="missing", problem=f"{full} does not exist{missing_hint(path)}")
    except OSError as error:
        return PictureFacts(kind="missing", problem=f"{full} cannot be read: {error.strerror}")
    try:
        read_image(full, min_size)
    except DataError as error:
        return PictureFacts(content=content, kind="corrupt", problem=str(error))
    with Image.open(full, formats=FORMATS) as image:
        return PictureFacts(image.width, image.height, content)


def inspect_with(path: str, read: Callable[[str], Image.Image]) -> PictureFacts:
    """Decode a picture that is no file of its own; its content is its pixels."""
    try:
        image = read(path)
    except DataError as error:
        return PictureFacts(kind="corrupt", problem=str(error))
    return PictureFacts(image.width, image.height, _digest(image.tobytes()))


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def default_workers() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def inspect_pictures(
    paths: Sequence[str], inspect: Callable[[str], PictureFacts], workers: int | None = None
) -> Iterator[PictureFacts]:
    """Facts about each picture, in the order of ``paths``.

    There is one worker process a core, if ``workers`` is None; few pictures need none. ``inspect``
    is pickled for them.

    Raises:
        DataError: a process was killed.
    """
    workers = default_workers() if workers is None else workers
    if workers < 2 or len(paths) < _MIN_POOLED:
        yield from map(inspect, paths)
        return
    # a forked process need not import torch again, which takes longer than thousands of pictures
    context = get_context("fork" if "fork" in get_all_start_methods() else None)
    try:
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            yield from pool.map(inspect, paths, chunksize=_CHUNK)
    except BrokenProcessPool as error:
        raise DataError(
            "A process that decodes pictures was killed, most likely for want of memory. Check "
            "again with fewer of them: --workers 1."
        ) from error
