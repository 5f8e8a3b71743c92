"""The dataset of the rows of a sample table."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import cast, get_args

import numpy as np
import pyarrow as pa
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset

from epic_pl.data.images import read_image
from epic_pl.data.rows import rows_digest
from epic_pl.utils.errors import DataError
from epic_pl.utils.types import Modality, Row, Sample, SourceName

_FIELDS: dict[str, SourceName] = {"image": "image", "text": "text", "cells": "columns"}


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed the CPU's random generators by ``numbers`` in a block, and restore them after it."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    with isolate_rng(include_cuda=False):
        # torch.manual_seed would also reseed accelerators, and so change the model's dropout
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - users' transforms draw from it
        yield


class ImageTextDataset(Dataset[Sample]):
    """Samples of a table; an image is read and transformed when its sample is.

    A transform may have two attributes: ``random`` (default True; False saves the seeding) and
    ``min_size`` (see :func:`~epic_pl.data.images.read_image`). Its random numbers depend on (seed,
    epoch, row) only, so its result is the same with any number of workers, on any rank, and after a
    restart.

    Args:
        table: rows, as made by :func:`~epic_pl.data.rows.sample_table`.
        image_root: folder that image paths are relative to and may not leave.
        transform: function from an RGB image to a tensor ``(3, H, W)`` float32.
        seed: seed of the transform's random numbers.
    """

    alone: SourceName | None = None
    """The only modality that samples have, or the columns; None keeps all."""

    draws_labels = False
    """Whether texts and labels are drawn anew every epoch, out of the rows of :attr:`table`."""

    def __init__(
        self,
        table: pa.Table,
        image_root: Path | str,
        transform: Callable[[Image], Tensor],
        *,
        seed: int = 0,
    ) -> None:
        self.image_root = Path(image_root).resolve()
        self.transform = transform
        self.seed = seed
        self.epoch = 0
        # one buffer per column, since each access to a chunked column costs a search
        table = table.combine_chunks()
        self._columns = {name: table[name] for name in table.column_names}

    def __len__(self) -> int:
        return len(self._columns["sample_id"])

    @property
    def table(self) -> pa.Table:
        """All rows, with the columns of :func:`~epic_pl.data.rows.table_schema`, without a copy."""
        return pa.table(self._columns)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the rows: ids, paths, texts and labels."""
        return rows_digest(self.table)

    def map_texts(self, change: Callable[[str], str]) -> None:
        """Replace texts by ``change`` of them, called once per distinct text; absent ones stay."""
        coded = self._columns["text"].combine_chunks().dictionary_encode()
        changed = pa.array([change(text) for text in coded.dictionary.to_pylist()], pa.string())
        self._columns["text"] = pa.chunked_array([changed.take(coded.indices)])

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the augmentations."""
        self.epoch = epoch

    def row(self, index: int) -> Row:
        """The row ``index`` with its image path instead of its image."""
        row = {name: column[index].as_py() for name, column in self._columns.items()}
        row["image_path"] = row["image"]  # which names the row's image even if the text is alone
        if self.alone is not None:
            for name in _FIELDS.keys() & row.keys():
                row[name] = row[name] if _FIELDS[name] == self.alone else None
        return cast(Row, row)

    def distinct(self) -> tuple[list[str], list[str]]:
        """The distinct image paths and the distinct texts in use, in the order of the rows."""
        used = [name for name in get_args(Modality) if self.alone in (None, name)]
        found = {name: self._columns[name].unique().drop_null().to_pylist() for name in used}
        return found.get("image", []), found.get("text", [])

    def __getitem__(self, index: int) -> Sample:
        row = self.row(index)
        path = row["image"]
        image = None if path is None else self._usable(path, f"Sample {row['sample_id']!r}: ")
        pixels = None if image is None else self._transformed(image, self.epoch, index)
        return cast(Sample, {**row, "image": pixels})

    def image(self, path: str) -> Tensor:
        """The transformed image ``(3, H, W)`` at a path."""
        return self._transformed(self._usable(path), 0)

    def _usable(self, path: str, of: str = "") -> Image:
        min_size = getattr(self.transform, "min_size", None)
        try:
            return read_image(Path(path), min_size, root=self.image_root)
        except DataError as error:
            raise DataError(
                f"{of}{error} To go on without such images, set on_bad_sample to skip or absent."
            ) from error

    def _transformed(self, image: Image, *numbers: int) -> Tensor:
        if not getattr(self.transform, "random", True):
            return self.transform(image)
        with seeded(self.seed, *numbers):
            return self.transform(image)
