"""The HDF5 release of MM-IMDB: films in one file, plots as word numbers, posters as arrays."""

import json
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from epic_pl.data.datamodule import Split
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.readers import read_json
from epic_pl.data.rows import Rows, sample_table
from epic_pl.errors import DataError

_DATASETS = ("genres", "images", "imdb_ids", "sequences")
_SPLIT_NAMES = {"train": b"train", "val": b"dev", "test": b"test"}
# posters are stored as VGG takes them: blue, green, red, less the mean of ImageNet
_VGG_MEAN = np.array([103.939, 116.779, 123.68])[:, None, None]
_PROBED = 16  # posters that show whether the mean was subtracted


def _open(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise DataError(
            f"{path} is an HDF5 file, which needs h5py: pip install h5py. Or unpack mmimdb.tar.gz "
            "(split.json and dataset/), which needs nothing."
        ) from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path} cannot be opened as HDF5: {error}. Fetch it again.") from error


def vocabulary_path(path: Path) -> Path:
    """Where the words of an HDF5 file are listed: beside it."""
    return path.with_name("metadata.json")


def check_vocabulary(path: Path) -> None:
    """Refuse a file without its vocabulary beside it."""
    vocabulary = vocabulary_path(path)
    if not vocabulary.is_file():
        raise DataError(
            f"{path} holds plots as numbers of words, and {vocabulary}, their vocabulary, is "
            "missing. The release has it as metadata.npy, a pickle, which can run code and so is "
            "not read here; if you trust yours, convert it once, in its folder: python -c "
            "\"import json, numpy; words = numpy.load('metadata.npy', allow_pickle=True).item()"
            "['ix_to_word']; json.dump({'ix_to_word': {int(i): w for i, w in words.items()}}, "
            "open('metadata.json', 'w'))\""
        )


def read_hdf5(path: Path, split: Split, genres: Sequence[str]) -> Rows:
    """The rows of a split; the picture "path" of a row is its number in the file."""
    words = read_json(vocabulary_path(path)).get("ix_to_word")
    if not isinstance(words, dict):
        raise DataError(f"{vocabulary_path(path)} has no object 'ix_to_word'. Convert it again.")
    with _open(path) as file:
        if missing := [name for name in _DATASETS if name not in file]:
            raise DataError(
                f"{path} has no {', '.join(missing)}; it must be multimodal_imdb.hdf5 of MM-IMDB. "
                "Fetch it again."
            )
        start, stop = _bounds(file, path, split)
        order = _genre_order(file, path, genres)
        flags = file["genres"][start:stop][:, order]  # (N, C)
        films = [film.decode() for film in file["imdb_ids"][start:stop]]
        # a film without a plot has no words
        plots = [
            " ".join(str(words.get(str(int(number)), "")) for number in sequence) or None
            for sequence in file["sequences"][start:stop]
        ]
    labels = [np.flatnonzero(row).tolist() for row in flags]
    kept = [row for row, label in enumerate(labels) if label]
    table = sample_table(
        [films[n] for n in kept],
        [str(start + n) for n in kept],
        [plots[n] for n in kept],
        [labels[n] for n in kept],
        multilabel=True,
    )
    notes = {
        "dropped because no genre is left": len(labels) - len(kept),
        "without a plot": table["text"].null_count,
    }
    return Rows(table, path, path, notes=notes)


def _bounds(file: Any, path: Path, split: Split) -> tuple[int, int]:
    """First row of a split and the row after its last, from the file's split table."""
    for entry in file.attrs.get("split", ()):
        if entry["split"] == _SPLIT_NAMES[split] and entry["source"] == b"images":
            return int(entry["start"]), int(entry["stop"])
    raise DataError(
        f"{path} has no rows of {_SPLIT_NAMES[split].decode()} in its split table (attribute "
        "'split'). Fetch the released file again."
    )


def _genre_order(file: Any, path: Path, genres: Sequence[str]) -> list[int]:
    """Column of each genre; the file has its own order."""
    names = file["genres"].attrs.get("target_names")
    columns = json.loads(names) if names is not None else list(genres)
    if sorted(columns) != sorted(genres):
        raise DataError(
            f"{path} has the genres {', '.join(columns)}, not the {len(genres)} usual ones. Fetch "
            "the released file again."
        )
    return [columns.index(genre) for genre in genres]


class HDF5PictureDataset(ImageTextDataset):
    """Samples whose pictures are rows of ``images (N, 3, H, W)`` in an HDF5 file."""

    def read(self, path: str) -> Image.Image:
        """A poster by its row."""
        # open handles don't survive a fork: each process opens its own
        file, centred = _opened(self.image_root, os.getpid())
        try:
            pixels = file["images"][int(path)].astype(np.float64)  # (3, H, W)
        except (OSError, IndexError, ValueError) as error:
            raise DataError(
                f"Row {path} of {self.image_root} cannot be read: {error}. Fetch the file again."
            ) from error
        restored = pixels + _VGG_MEAN if centred else pixels
        rgb = np.clip(np.rint(restored[::-1].transpose(1, 2, 0)), 0, 255)  # (H, W, 3)
        return Image.fromarray(np.ascontiguousarray(rgb.astype(np.uint8)))


@lru_cache(maxsize=4)
def _opened(path: Path, process: int) -> tuple[Any, bool]:
    """The open file of a process, and whether its posters have VGG's mean subtracted."""
    file = _open(path)
    return file, bool((file["images"][:_PROBED] < 0).any())
