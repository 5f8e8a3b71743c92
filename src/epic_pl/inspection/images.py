"""Decode every image of a dataset once, in parallel."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from epic_pl.data.image_files import image_file, missing_hint
from epic_pl.data.images import FORMATS, read_image
from epic_pl.errors import DataError
from epic_pl.untrusted import require_regular

# for fewer images, starting processes costs more than it saves
_MIN_POOLED = 256
_CHUNK = 32


@dataclass(frozen=True)
class ImageFacts:
    """Facts about one image.

    Attributes:
        width: width of the stored image in pixels.
        height: height of the stored image in pixels.
        content: hash of the file's bytes.
        kind: ``missing``, ``outside`` or ``corrupt``; None for a valid image.
        problem: description of the problem.
    """

    width: int | None = None
    height: int | None = None
    content: str | None = None
    kind: str | None = None
    problem: str | None = None


def _inspect_file(path: str, root: Path, min_size: int | None) -> ImageFacts:
    """Decode an image file as training does."""
    try:
        full = image_file(root, path)
        if not full.is_relative_to(root):
            problem = f"{full} is outside of the image root {root}"
            return ImageFacts(kind="outside", problem=problem)
        require_regular(full)
        content = _digest(full.read_bytes())
    except FileNotFoundError:
        return ImageFacts(kind="missing", problem=f"{full} does not exist{missing_hint(path)}")
    except OSError as error:
        return ImageFacts(
            kind="missing", problem=f"{full} cannot be read: {error.strerror or error}"
        )
    except DataError as error:
        return ImageFacts(kind="missing", problem=str(error))
    try:
        read_image(full, min_size)
    except DataError as error:
        return ImageFacts(content=content, kind="corrupt", problem=str(error))
    with Image.open(full, formats=FORMATS) as image:
        return ImageFacts(image.width, image.height, content)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def inspect_images(
    root: Path, paths: Sequence[str], min_size: int | None, workers: int | None
) -> Iterator[ImageFacts]:
    """Facts about images below ``root``, in the order of ``paths``.

    If ``workers`` is None, there is one worker process per core; few images are read here.
    """
    workers = os.cpu_count() or 1 if workers is None else workers
    inspect = partial(_inspect_file, root=root, min_size=min_size)
    if workers < 2 or len(paths) < _MIN_POOLED:
        yield from map(inspect, paths)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(inspect, paths, chunksize=_CHUNK)
