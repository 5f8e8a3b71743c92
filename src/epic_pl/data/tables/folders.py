"""Pictures in a folder for each class, as a table."""

from itertools import islice
from pathlib import Path

import pyarrow as pa

from epic_pl.data.images import PICTURE_SUFFIXES
from epic_pl.data.tables.columns import SPLIT_NAMES
from epic_pl.data.tables.hf import HF_SPLIT_COLUMN
from epic_pl.errors import DataError
from epic_pl.untrusted import require_regular


def holds_classes(path: Path) -> bool:
    """Whether a folder has two folders of pictures at least, or a split's folder has."""
    splits = (each for each in path.iterdir() if each.name.lower() in SPLIT_NAMES)
    for folder in (path, *splits):
        classes = (each for each in folder.glob("*/") if any(map(_is_picture, each.glob("*"))))
        if len(list(islice(classes, 2))) == 2:  # a large folder is not looked through
            return True
    return False


def read_class_folders(path: Path) -> pa.Table:
    """Columns ``image``, ``label``, and where there are any ``text`` and ``split``.

    The layout is ``CLASS/PICTURE`` or ``SPLIT/CLASS/PICTURE``, with splits as in a split column. A
    text stands beside its picture, in a file of the same name that ends in ``.txt``.

    Raises:
        DataError: a picture lies elsewhere, or a text cannot be read.
    """
    pictures = sorted(
        each.relative_to(path)
        for each in path.rglob("*")
        if _is_picture(each) and not any(p.startswith(".") for p in each.relative_to(path).parts)
    )
    with_splits = all(
        len(picture.parts) == 3 and picture.parts[0].lower() in SPLIT_NAMES for picture in pictures
    )
    depth = 3 if with_splits else 2
    for picture in pictures:
        if len(picture.parts) != depth:
            layout = "SPLIT/CLASS/PICTURE" if with_splits else "CLASS/PICTURE"
            raise DataError(
                f"{path} is read as {layout}, but has {picture}: move it, or name the folder that "
                "holds the classes."
            )
    texts = [_text(path / picture) for picture in pictures]
    columns = {
        "image": [picture.as_posix() for picture in pictures],
        "label": [picture.parts[-2] for picture in pictures],
    }
    table = pa.table({name: pa.array(each, pa.string()) for name, each in columns.items()})
    if any(text is not None for text in texts):
        table = table.append_column("text", pa.array(texts, pa.string()))
    if with_splits:
        splits = [picture.parts[0] for picture in pictures]
        table = table.append_column(HF_SPLIT_COLUMN, pa.array(splits, pa.string()))
    return table


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()


def _text(picture: Path) -> str | None:
    path = picture.with_suffix(".txt")
    try:
        require_regular(path)
        return path.read_text(encoding="utf-8-sig").strip() if path.exists() else None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The text {path} cannot be read as UTF-8: {error}.") from error
