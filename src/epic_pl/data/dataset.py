"""Rows of a sample table as samples, and samples as batches."""

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from epic_pl.data.images import image_file, read_image
from epic_pl.data.row_cache import ImageRecord
from epic_pl.utils.errors import ConfigError, DataError, counted
from epic_pl.utils.types import Batch, Reference, Sample, Task

# a tokenizer needs 250 bytes per character of a whole text, of which it then keeps the beginning
CHARACTERS_PER_TOKEN = 1000


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Run a block with CPU random states that depend on ``numbers`` only, then restore them."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    with isolate_rng(include_cuda=False):
        # torch.manual_seed would reseed the accelerators too, and with them the model's dropout
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - transforms of others draw from it
        yield


class ImageTextDataset(Dataset[Sample]):
    """Samples of a table, images read and transformed on access.

    A transform may have two attributes: ``random`` (False saves the seeding; True if missing) and
    ``min_size`` (see :func:`~epic_pl.data.images.read_image`). Random numbers of a transform depend
    on (seed, epoch, row) only, so its result is the same with any number of workers, on any rank,
    and after a restart.

    Args:
        table: as made by :func:`~epic_pl.data.rows.sample_table`.
        image_root: folder that image paths are relative to and may not leave.
        transform: RGB image to ``(3, H, W)`` float32.
        seed: seed of the transform's random numbers.
    """

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
        # one buffer a column: a row of a chunked one costs a search
        table = table.combine_chunks()
        self._columns = {name: table[name] for name in ("sample_id", "image", "text", "label")}

    def __len__(self) -> int:
        return len(self._columns["sample_id"])

    @property
    def table(self) -> pa.Table:
        """All rows as :func:`~epic_pl.data.rows.table_schema` says; no copy."""
        return pa.table(self._columns)

    def digest(self) -> str:
        """SHA-256 of the rows: ids, paths, texts and labels."""
        digest = hashlib.sha256(str(len(self)).encode())
        for batch in self.table.to_batches(max_chunksize=10_000):
            digest.update(repr(batch.to_pydict()).encode())
        return digest.hexdigest()

    def files_digest(self, rows: range) -> str:
        """SHA-256 of the sizes and times of change of the image files of successive rows."""
        paths = self._columns["image"][rows.start : rows.stop].drop_null().to_pylist()
        states = map(ImageRecord(self.image_root).key, paths)
        return hashlib.sha256(repr([*states]).encode(errors="surrogateescape")).hexdigest()

    def map_texts(self, change: Callable[[str], str]) -> None:
        """Replace every text, each distinct one once; absent texts stay absent."""
        coded = self._columns["text"].combine_chunks().dictionary_encode()
        changed = pa.array([change(text) for text in coded.dictionary.to_pylist()], pa.string())
        self._columns["text"] = pa.chunked_array([changed.take(coded.indices)])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose augmentations are drawn."""
        self.epoch = epoch

    def reference(self, index: int) -> Reference:
        """A row without reading its image."""
        row = {name: column[index].as_py() for name, column in self._columns.items()}
        return cast(Reference, row)

    def distinct(self) -> tuple[list[str], list[str]]:
        """The distinct image paths and the distinct texts, in the order of the rows."""
        columns = (self._columns[name] for name in ("image", "text"))
        images, texts = (column.unique().drop_null().to_pylist() for column in columns)
        return images, texts

    def __getitem__(self, index: int) -> Sample:
        row = self.reference(index)
        path = row["image"]
        image = None if path is None else self._usable(path, f"Sample {row['sample_id']!r}: ")
        pixels = None if image is None else self._transformed(image, self.epoch, index)
        return cast(Sample, {**row, "image": pixels, "image_path": row["image"]})

    def image(self, path: str) -> Tensor:
        """An image by its path, transformed ``(3, H, W)``, without augmentation."""
        return self._transformed(self._usable(path), 0)

    def read(self, path: str) -> Image:
        """An image as read from disk."""
        full = image_file(self.image_root, path)
        if not full.is_relative_to(self.image_root):
            raise DataError(
                f"Image {path!r} leads to {full}, outside of the image root {self.image_root}. "
                "Move the image, or choose a root that holds them all (the target, where a "
                "symbolic link leads out)."
            )
        return read_image(full, getattr(self.transform, "min_size", None))

    def _usable(self, path: str, of: str = "") -> Image:
        try:
            return self.read(path)
        except DataError as error:
            raise DataError(
                f"{of}{error} To go on without such images, set on_bad_sample to skip or absent."
            ) from error

    def _transformed(self, image: Image, *numbers: int) -> Tensor:
        if not getattr(self.transform, "random", True):
            return self.transform(image)
        with seeded(self.seed, *numbers):
            return self.transform(image)


class Collator:
    """Puts samples into a :class:`~epic_pl.utils.types.Batch`; picklable, for workers to hold it.

    An absent image becomes zeros and an absent text the tokens of an empty string, with False in
    the presence mask; an empty string is a text that is present. A batch has no masks if
    every image and text is present, and no ``labels`` if any label is unknown.

    Args:
        tokenizer: tokenizer of the text encoder, as from
            :func:`~epic_pl.data.preprocessing.load_tokenizer`.
        num_classes: number of classes C.
        task: ``multiclass`` or ``multilabel``.
        image_size: side of the images in pixels.
        max_text_tokens: longer texts are cut, as are those longer than the tokenizer allows.
    """

    def __init__(
        self,
        tokenizer: Any,
        num_classes: int,
        task: Task,
        image_size: int,
        max_text_tokens: int,
    ) -> None:
        if task not in ("multiclass", "multilabel"):
            raise ConfigError(f"The task must be multiclass or multilabel, got {task!r}.")
        self.tokenizer = tokenizer
        self.num_classes = num_classes
        self.task = task
        self.image_size = image_size
        self.max_text_tokens = min(max_text_tokens, tokenizer.model_max_length)

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Collate B samples."""
        tokens = self.tokenize([sample["text"] or "" for sample in samples])
        batch: Batch = {
            "pixel_values": self._pixels(samples),
            "input_ids": tokens["input_ids"],
            "attention_mask": tokens["attention_mask"],
            "sample_id": [sample["sample_id"] for sample in samples],
        }
        if all("image_path" in sample for sample in samples):
            batch["image_path"] = [sample["image_path"] or "" for sample in samples]
        # masks only where a modality is absent: attention without a mask takes a faster path
        image_present = torch.tensor([sample["image"] is not None for sample in samples])
        text_present = torch.tensor([sample["text"] is not None for sample in samples])
        if not (image_present.all() and text_present.all()):
            batch["image_present"], batch["text_present"] = image_present, text_present
        if all(sample["label"] is not None for sample in samples):
            batch["labels"] = self.labels(samples)
        return batch

    def tokenize(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        """``input_ids`` and ``attention_mask`` ``(B, S)``, padded on the right."""
        tokens: Mapping[str, Tensor] = self.tokenizer(
            self.shortened(texts),
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=self.max_text_tokens,
            return_attention_mask=True,
            return_token_type_ids=False,
            return_tensors="pt",
        )
        return tokens

    def full_texts(self, batch: Batch) -> int:
        """Number of texts with as many tokens as are read; of longer ones the rest is cut."""
        return int((batch["attention_mask"].sum(dim=1) >= self.max_text_tokens).sum())

    def tell_full(self, count: int) -> None:
        """Log how many texts of this process were full, if any."""
        if count:
            texts = f"{counted(count, 'texts')} of {self.max_text_tokens} tokens or more"
            rank_zero_info(f"{texts}: what exceeds the max_text_tokens of training was cut.")

    def shortened(self, texts: Sequence[str]) -> list[str]:
        """Texts cut to :data:`CHARACTERS_PER_TOKEN` for each token that is kept."""
        return [text[: CHARACTERS_PER_TOKEN * self.max_text_tokens] for text in texts]

    def _pixels(self, samples: Sequence[Sample]) -> Tensor:
        """Images ``(B, 3, H, W)``."""
        blank = torch.zeros(3, self.image_size, self.image_size)
        images = [blank if sample["image"] is None else sample["image"] for sample in samples]
        for image, sample in zip(images, samples, strict=True):
            if image.shape != blank.shape:
                raise DataError(
                    f"The image of sample {sample['sample_id']!r} has shape "
                    f"{tuple(image.shape)} after its transform, not {tuple(blank.shape)}. Let the "
                    "transform end with a crop of image_size."
                )
        # in a worker this stacks right into shared memory, which saves a copy of the batch
        pixels: Tensor = default_collate(images)
        return pixels

    def labels(self, samples: Sequence[Sample | Reference]) -> Tensor:
        """Class indices ``(B,)``, or 0/1 ``(B, C)`` for multilabel."""
        if self.task == "multiclass":
            return torch.tensor([self._classes(sample)[0] for sample in samples])
        labels = torch.zeros(len(samples), self.num_classes)
        for row, sample in zip(labels, samples, strict=True):
            row[self._classes(sample)] = 1.0
        return labels

    def _classes(self, sample: Sample | Reference) -> list[int]:
        label = sample["label"]
        is_list = isinstance(label, list)
        classes: list[Any] = label if isinstance(label, list) else [label]
        known = all(index in range(self.num_classes) for index in classes)
        if is_list != (self.task == "multilabel") or not known:
            raise DataError(
                f"Sample {sample['sample_id']!r} has label {label!r}; a {self.task} task takes "
                f"{'a list of class indices' if self.task == 'multilabel' else 'a class index'} "
                f"in 0..{self.num_classes - 1}."
            )
        return classes


def whole_batch(batch: Batch) -> Batch:
    """Collation of a dataset that gives whole batches."""
    return batch
