"""Reading of image folders as tables: one folder per class, or any folder to predict."""

from collections.abc import Mapping
from io import TextIOWrapper
from itertools import islice
from pathlib import Path

import pyarrow as pa

from epic_pl.data.images import IMAGE_SUFFIXES
from epic_pl.data.tables.columns import SPLIT_COLUMN, SPLIT_NAMES
from epic_pl.utils.errors import DataError, raised_as
from epic_pl.utils.untrusted import open_below


def holds_classes(path: Path) -> bool:
    """Whether a folder, or a split's folder in it, has at least two folders with images."""
    splits = (entry for entry in path.iterdir() if entry.name.lower() in SPLIT_NAMES)
    for folder in (path, *splits):
        classes = (inner for inner in folder.glob("*/") if any(map(_is_image, inner.glob("*"))))
        if len(list(islice(classes, 2))) == 2:  # stops early in a large folder
            return True
    return False


def read_class_folders(path: Path, captions: Mapping[str, str | None] = {}) -> pa.Table:
    """Read columns ``image``, ``label`` and, if there are any, ``text`` and ``split``.

    The layout is ``CLASS/IMAGE`` or ``SPLIT/CLASS/IMAGE``, with the split names of a split column.
    The text of ``a.jpg`` is ``a.txt`` beside it, or that of its path in ``captions``.

    Raises:
        DataError: if there are no classes, an image or the one of a caption lies elsewhere, or a
            text cannot be read.
    """
    if not holds_classes(path):
        raise DataError(f"{path} has no folder per class, and is no Hugging Face dataset.")
    images = _images(path)
    with_splits = all(
        len(image.parts) == 3 and image.parts[0].lower() in SPLIT_NAMES for image in images
    )
    for image in images:
        if not with_splits and len(image.parts) != 2:
            raise DataError(f"{path} is read as CLASS/IMAGE, but has {image}: move it away.")
    table = _table(path, images, captions)
    if table["text"].null_count == len(table):
        table = table.drop_columns("text")
    table = table.append_column("label", [[image.parts[-2] for image in images]])
    if with_splits:
        table = table.append_column(SPLIT_COLUMN, [[image.parts[0] for image in images]])
    return table


def read_image_folder(path: Path, captions: Mapping[str, str | None] = {}) -> pa.Table:
    """Read columns ``image`` (relative path) and ``text`` of all images below a folder.

    The text of ``a.jpg`` is ``a.txt`` beside it, else that of its path in ``captions``, else null.

    Raises:
        DataError: if there are no images, a caption's image is missing, or a text cannot be read.
    """
    images = _images(path)
    if not images:
        raise DataError(f"No images ({', '.join(IMAGE_SUFFIXES)}) in {path} or its subfolders.")
    return _table(path, images, captions)


def _table(path: Path, images: list[Path], captions: Mapping[str, str | None]) -> pa.Table:
    names = [image.as_posix() for image in images]
    if unknown := sorted({*captions} - {*names}):
        raise DataError(
            f"{path}: {len(unknown):,} of {len(captions):,} captions are of images that do not "
            f"exist, such as {unknown[0]}. Paths in a file_name start from the folder of its file."
        )
    root = path.resolve()
    texts = [_text(root, name) or captions.get(name) for name in names]
    return pa.table({"image": names, "text": pa.array(texts, pa.string())})


def _images(path: Path) -> list[Path]:
    return [file for file in visible_files(path) if _is_image(path / file)]


def visible_files(path: Path) -> list[Path]:
    """Relative paths of all files and folders below a folder, without hidden ones."""
    files = sorted(file.relative_to(path) for file in path.rglob("*"))
    return [file for file in files if not any(part.startswith(".") for part in file.parts)]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()


def _text(root: Path, image: str) -> str | None:
    path = (root / image).with_suffix(".txt")
    convert = f"iconv -f WINDOWS-1252 -t UTF-8 {path.name}"
    way_out = f"Copy what a link leads to; convert a file from Windows: {convert}"
    with raised_as(DataError, f"The text {path} cannot be read as UTF-8", way_out):
        if not path.exists():
            return None
        with TextIOWrapper(open_below(root, path), "utf-8-sig") as file:
            return file.read().strip()
