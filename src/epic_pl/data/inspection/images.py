"""Decode every image of a dataset once, in parallel."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image
from rich.progress import Progress

from epic_pl.data.decoding import FORMATS
from epic_pl.data.images import image_file, missing_hint, read_image
from epic_pl.utils.errors import DataError
from epic_pl.utils.untrusted import require_regular

FACTS = pa.schema(
    [
        ("width", pa.int32()),  # of the stored image, in pixels
        ("height", pa.int32()),
        ("kind", pa.string()),  # missing, outside or corrupt; null for a valid image
        ("problem", pa.string()),  # message that says what is wrong
        ("content", pa.string()),  # hash of the file's bytes
    ]
)


def inspect_images(
    root: Path, paths: Sequence[str], min_size: int | None, workers: int, progress: Progress
) -> pa.Table:
    """A table of facts about images, with columns :data:`FACTS`, in the order of ``paths``.

    Args:
        root: folder that the paths are relative to.
        paths: paths of image files.
        min_size: see :func:`~epic_pl.data.images.read_image`.
        workers: number of threads, which run in parallel since decoding releases Python's lock.
        progress: progress bar.
    """
    inspect = partial(_inspect_file, root=root, min_size=min_size)
    with ThreadPoolExecutor(workers) as pool:
        facts = progress.track(pool.map(inspect, paths), len(paths), description="images")
        return pa.Table.from_pylist(list(facts), FACTS)


def _inspect_file(path: str, root: Path, min_size: int | None) -> dict[str, Any]:
    """Decode an image file as in training, and return its facts."""
    try:
        file = image_file(root, path)
        if not file.is_relative_to(root):
            problem = f"{file} is outside of the image root {root}"
            return {"kind": "outside", "problem": problem}
        require_regular(file)
        content = blake2b(file.read_bytes(), digest_size=16).hexdigest()
    except OSError as error:
        what = f"cannot be read: {error.strerror or error}"
        if isinstance(error, FileNotFoundError):
            what = "does not exist"
        problem = f"{file} {what}{missing_hint(path)}"
        return {"kind": "missing", "problem": problem}
    except DataError as error:
        return {"kind": "missing", "problem": str(error)}
    try:
        read_image(file, min_size)
    except DataError as error:
        return {"kind": "corrupt", "problem": str(error), "content": content}
    with Image.open(file, formats=FORMATS) as image:
        return {"width": image.width, "height": image.height, "content": content}
