"""The processor, which turns images and texts into batches everywhere in the package.

Shape legend: B batch, S text tokens, H, W image height and width, C classes.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self, TypedDict, cast, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from epic_pl.data.cells import ColumnPreprocessing
from epic_pl.data.clean_text import clean_text as cleaned
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.decoding import MAX_PIXELS, upright_rgb
from epic_pl.data.images import read_image
from epic_pl.data.preprocessing import (
    AnyResize,
    ImagePreprocessing,
    TextPreprocessing,
    check_tokenizer,
)
from epic_pl.data.pretrained import image_preprocessing, load_tokenizer, text_preprocessing
from epic_pl.data.transforms import build_image_transform
from epic_pl.utils.errors import (
    ConfigError,
    DataError,
    EncoderError,
    counted,
    raised_as,
)
from epic_pl.utils.types import Batch, Row, Sample, Task
from epic_pl.utils.validate import check_word

ImageInput = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any]
"""A path, a file's content, a PIL image, or pixels (H, W), (H, W, 3) or (H, W, 4) as uint8, or
greyscale (H, W) as uint16. URLs are refused: nothing is downloaded."""

Label = int | Sequence[int]
"""A class index, or in a multilabel task the indices of the classes that apply."""

# a tokenizer takes 250 bytes per character of the whole text, although it keeps only the beginning
CHARACTERS_PER_TOKEN = 1000
# what tokenizers differ in: case, accents, numbers, marks, scripts, blanks, and long words
_PROBES = (
    "The naïve CAFÉ isn't a_b-c/d: 1,234.5% [MASK]",
    "Straße Дом 東京 \U0001f355 \t",
    "x" * 150,
)
_PROBED, _PROBED_TOKENS = 500, 16  # words of the vocabulary beside them, and tokens of each
_HALF = re.compile("[\ud800-\udfff]")  # surrogates, which tokenizers refuse


class Item(TypedDict, total=False):
    """One sample to classify; a modality that is None or not given is missing.

    For a model that reads columns, it has each of them by name, with None for an unknown value.
    """

    image: ImageInput | None
    text: str | None


class LabelledItem(Item, total=False):
    """One sample with its label, and an id that messages use."""

    label: Label | None
    sample_id: str


class Processor:
    """Turns images and texts into a :class:`~epic_pl.utils.types.Batch`, as in training.

    An absent image becomes zeros and an absent text the tokens of an empty string, with False in
    the presence mask; an empty string is a text that is present. A batch has no masks if every
    image and text is present, and no ``labels`` if any label is unknown. Workers of a loader can
    have a copy, since it can be pickled.

    Args:
        image: preprocessing of images.
        text: preprocessing of texts, which are also cut at the tokenizer's own limit.
        tokenizer: tokenizer of the text encoder, as from
            :func:`~epic_pl.data.pretrained.load_tokenizer`.
        task: ``multiclass`` or ``multilabel``.
        num_classes: number of classes C; needed for labels of a multilabel task.
        columns: preprocessing of numbers, dates and categories.

    Attributes:
        max_text_tokens: maximum number of tokens of a text; longer texts are cut.
        text: preprocessing of texts, with the digest of the tokenizer.
        transform: function from an RGB image to a tensor ``(3, H, W)`` float32.

    Raises:
        ConfigError: ``task`` is neither of the two.
        CheckpointError: a model was trained with another tokenizer.
        EncoderError: the tokenizer fails.

    Example:
        >>> processor = Processor.from_encoders("tiny-vit", "tiny-bert")
        >>> batch = processor(images=["images/test0.png", None], text=["a blue square", "red"])
        >>> batch["pixel_values"].shape, batch["image_present"]
        (torch.Size([2, 3, 32, 32]), tensor([ True, False]))
        >>> loader = torch.utils.data.DataLoader([{"text": "red"}], collate_fn=processor)
        >>> next(iter(loader))["input_ids"].shape
        torch.Size([1, 3])
    """

    def __init__(
        self,
        image: ImagePreprocessing,
        text: TextPreprocessing,
        tokenizer: Any,
        task: Task = "multiclass",
        num_classes: int | None = None,
        columns: ColumnPreprocessing = ColumnPreprocessing(),  # noqa: B008 frozen
    ) -> None:
        check_word(get_args(Task), task=task)
        self.image, self.text, self.tokenizer = image, text, tokenizer
        self._name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        self.task, self.num_classes, self.columns = task, num_classes, columns
        self.max_text_tokens = min(text.max_tokens, tokenizer.model_max_length)
        # a tokenizer without special tokens makes none of an empty text, but a batch needs one
        self._blank = "" if self.encode("")["input_ids"] else tokenizer.pad_token
        self.transform = build_image_transform(image, train=False)
        self.text = replace(text, tokenizer=self._digest())
        check_tokenizer(text.tokenizer, self.text.tokenizer, self._name)

    @classmethod
    def from_encoders(
        cls,
        image: str,
        text: str,
        *,
        image_size: int | None = None,
        resize: AnyResize = "auto",
        max_text_tokens: int = 64,
        clean_text: bool = False,
        text_prompt: str = "auto",
        task: Task = "multiclass",
        num_classes: int | None = None,
    ) -> Self:
        """A processor with the preprocessing that the encoders were pretrained with.

        Args:
            image: name of the image encoder, see
                :func:`~epic_pl.data.pretrained.image_preprocessing`.
            text: name of the text encoder, see :func:`~epic_pl.data.pretrained.load_tokenizer`.
            image_size: side of the images in pixels; None is the image encoder's own.
            resize: how images become square, see
                :class:`~epic_pl.data.preprocessing.ImagePreprocessing`; "auto" is the image
                encoder's own.
            max_text_tokens: maximum number of tokens of a text; longer texts are cut.
            clean_text: whether to apply :func:`~epic_pl.data.clean_text.clean_text` to texts.
            text_prompt: see :func:`~epic_pl.data.pretrained.text_preprocessing`.
            task: ``multiclass`` or ``multilabel``.
            num_classes: number of classes C; needed for labels of a multilabel task.

        Raises:
            EncoderError: if there is no such encoder.
            AssetError: if its files cannot be fetched.
        """
        own = image_preprocessing(image, image_size).with_resize(resize)
        chosen = TextPreprocessing(max_text_tokens, clean_text, text_prompt)
        words = text_preprocessing(text, chosen)
        return cls(own, words, load_tokenizer(text), task, num_classes)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Plain types for the argument ``preprocessing`` of EPICModule, which checkpoints store."""
        made = {"image": self.image.to_dict(), "text": asdict(self.text)}
        return made | ({"columns": asdict(self.columns)} if self.columns.names else {})

    def __call__(
        self,
        items: Sequence[LabelledItem] | None = None,
        *,
        images: Sequence[ImageInput | None] | None = None,
        text: Sequence[str | None] | None = None,
        labels: Sequence[Label | None] | None = None,
    ) -> Batch:
        """Make a batch of B items, or of B images and texts.

        Args:
            items: dictionaries with ``image``, ``text`` or both, and optionally ``label`` and
                ``sample_id``; they replace the other arguments.
            images: images, with None for a missing one; None if all are missing.
            text: texts, with None for a missing one; None if all are missing.
            labels: class indices, or lists of them in a multilabel task.

        Raises:
            DataError: if an item has neither image nor text, an image cannot be read, a type is
                wrong, or the numbers of images, texts and labels differ.
        """
        if items is not None and not (images is text is labels is None):
            raise DataError("Give items, or lists of images, text and labels, but not both.")
        if items is None:
            for name, values in (("images", images), ("text", text), ("labels", labels)):
                if isinstance(values, str | bytes):
                    raise DataError(f"{name} must be a list, one for each item: [{values!r:.40}].")
            given = {"image": images, "text": text, "label": labels}
            columns = {key: list(values) for key, values in given.items() if values is not None}
            lengths = {key: len(values) for key, values in columns.items()}
            if len(set(lengths.values())) != 1:
                raise DataError(f"Give as many images as texts and labels, not {lengths}.")
            rows = zip(*columns.values(), strict=True)
            items = cast(Any, [dict(zip(columns, row, strict=True)) for row in rows])
        if not items:
            raise DataError("There are no items, so there is no batch.")
        return self.collate([self._named(item, number) for number, item in enumerate(items)])

    def _named(self, item: LabelledItem, number: int) -> Sample:
        name = f"Item {item.get('sample_id', number) if isinstance(item, Mapping) else number}"
        check_item(item, name, self.columns.names, "label", "sample_id")
        try:
            sample = self.prepare(item)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
        label: Any = item.get("label")
        if label is not None:
            self._check_label(label, name)
        sample["label"] = [*label] if isinstance(label, list | tuple) else label
        sample["sample_id"] = item.get("sample_id", str(number))
        return sample

    def _check_label(self, label: Any, name: str) -> None:
        several, is_list = self.task == "multilabel", isinstance(label, list | tuple)
        if several and self.num_classes is None:
            raise ConfigError("A multilabel task needs num_classes for labels: give it.")
        end = 2**31 if self.num_classes is None else self.num_classes
        classes = label if is_list else [label]
        known = all(
            isinstance(index, int | np.integer) and not isinstance(index, bool) and 0 <= index < end
            for index in classes
        )
        if several != is_list or not known or len(set(classes)) < len(classes):
            raise DataError(
                f"{name} has label {label!r}; a {self.task} task takes "
                f"{'a list of different class indices' if several else 'a class index'} in "
                f"0..{end - 1}."
            )

    def prepare(self, item: Item, max_pixels: int = MAX_PIXELS) -> Sample:
        """Make a sample of a checked item: read and transform its image, clean its text.

        Args:
            item: image and text, one of which may be missing.
            max_pixels: maximum number of pixels; larger images are refused before decoding.

        Raises:
            DataError: if the image cannot be read.
        """
        image, text = item.get("image"), item.get("text")
        pixels = None
        if image is not None:
            pixels = self.transform(as_rgb(image, self.transform.min_size, max_pixels))
        if text is not None and self.text.clean:
            text = cleaned(text)
        sample: Sample = {"sample_id": "item", "image": pixels, "text": text, "label": None}
        if self.columns.names:
            self.check_cells(item)
            sample["cells"] = {name: item.get(name) for name in self.columns.names}
        return sample

    def check_cells(self, item: Mapping[str, Any]) -> None:
        """Raise DataError if the value of a column that the model reads cannot be read."""
        with raised_as(DataError, "A value cannot be read", "", ValueError):
            self.columns.parsed(item)

    def dataset(self, table: pa.Table, image_root: Path) -> ImageTextDataset:
        """A dataset of a :func:`~epic_pl.data.rows.sample_table`, for use with :meth:`collate`."""
        dataset = ImageTextDataset(table, image_root, self.transform)
        if self.text.clean:
            dataset.map_texts(cleaned)
        return dataset

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Make a batch of B samples with transformed images and cleaned texts."""
        tokens = self.tokenize([sample["text"] or "" for sample in samples])
        batch: Batch = {
            "pixel_values": self._pixels(samples),
            "input_ids": tokens["input_ids"],
            "attention_mask": tokens["attention_mask"],
        }
        return self.complete(batch, samples)

    def complete(self, batch: Batch, rows: Sequence[Sample | Row]) -> Batch:
        """Add ids, image paths, presence masks, labels and further columns of B rows to a batch."""
        batch["sample_id"] = [row["sample_id"] for row in rows]
        if all("image_path" in row for row in rows):
            batch["image_path"] = [row["image_path"] or "" for row in rows]
        # a mask only if a modality is missing, since attention is faster without one
        image_present = torch.tensor([row["image"] is not None for row in rows])
        text_present = torch.tensor([row["text"] is not None for row in rows])
        if not (image_present.all() and text_present.all()):
            batch["image_present"], batch["text_present"] = image_present, text_present
        if all(row["label"] is not None for row in rows):
            batch["labels"] = self._labels(rows)
        if self.columns.names:
            cells = [row.get("cells") or {} for row in rows]
            batch["columns"] = torch.from_numpy(self.columns.encode(cells))
        for name, first in rows[0].get("columns", {}).items():
            values = [row["columns"][name] for row in rows]
            cast(Any, batch)[name] = torch.tensor(values) if isinstance(first, float) else values
        return batch

    def encode(self, texts: str | Sequence[str], **options: Any) -> Any:
        """Call the tokenizer.

        Raises:
            EncoderError: if it fails, in Rust code too.
        """
        way_out = "Take the text or the row out, or the files of a sound tokenizer."
        with raised_as(EncoderError, f"Tokenizer {self._name} fails", way_out, BaseException):
            return self.tokenizer(texts, **options)

    def _digest(self) -> str:
        """SHA-256 of the vocabulary, the limits, and the tokens of some texts.

        It stays the same when the library writes a tokenizer in another form.
        """
        words, longest = self.tokenizer.get_vocab(), self.tokenizer.model_max_length
        texts = [*_PROBES, *sorted(words)[:: len(words) // _PROBED + 1]]
        ids = self.encode(texts, truncation=True, max_length=min(_PROBED_TOKENS, longest))
        known = [words, ids["input_ids"], longest, self.tokenizer.pad_token_id]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    def tokenize(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        """``input_ids`` and ``attention_mask`` ``(B, S)`` of the prompt and each text.

        They are padded on the right. The mask is True on the padding if the encoder attends to it.
        """
        prompted = [self.text.prompt + text for text in self.shortened(texts)]
        tokens: MutableMapping[str, Tensor] = self.encode(
            [text if text.strip() else self._blank for text in prompted],
            padding="max_length" if self.text.padded else True,
            padding_side="right",
            truncation=True,
            max_length=self.max_text_tokens,
            return_attention_mask=True,
            return_token_type_ids=False,
            return_tensors="pt",
        )
        if self.text.padded:
            tokens["attention_mask"] = torch.ones_like(tokens["attention_mask"])
        return tokens

    def full_texts(self, batch: Batch) -> int:
        """Number of texts that have the maximum number of tokens, and so may have been cut."""
        pad, padded = self.tokenizer.pad_token_id, self.text.padded
        seen = batch["input_ids"] != pad if padded else batch["attention_mask"]
        return int((seen.sum(dim=1) >= self.max_text_tokens).sum())

    def tell_full(self, count: int) -> None:
        """Log how many texts of this process may have been cut, if any."""
        if count:
            texts = f"{counted(count, 'texts')} of {self.max_text_tokens} tokens or more"
            rank_zero_info(f"{texts}: what exceeds the max_text_tokens of training was cut.")

    def shortened(self, texts: Sequence[str]) -> list[str]:
        """Texts, each cut to :data:`CHARACTERS_PER_TOKEN` characters per token that is kept."""
        return [text[: CHARACTERS_PER_TOKEN * self.max_text_tokens] for text in texts]

    def _pixels(self, samples: Sequence[Sample]) -> Tensor:
        """Images ``(B, 3, H, W)`` of samples, zeros where missing."""
        blank = torch.zeros(3, self.image.size, self.image.size)
        images = [blank if sample["image"] is None else sample["image"] for sample in samples]
        for image, sample in zip(images, samples, strict=True):
            if image.shape != blank.shape:
                raise DataError(
                    f"The image of sample {sample['sample_id']!r} has shape "
                    f"{tuple(image.shape)} after its transform, not {tuple(blank.shape)}. Let the "
                    "transform end with a crop of image_size."
                )
        # a worker stacks directly into shared memory, which saves a copy of the batch
        return cast(Tensor, default_collate(images))

    def _labels(self, rows: Sequence[Sample | Row]) -> Tensor:
        """Class indices ``(B,)``, or 0/1 ``(B, C)`` for multilabel, of checked labels."""
        if self.task == "multiclass":
            return torch.tensor([row["label"] for row in rows])
        labels = torch.zeros(len(rows), self.num_classes or 0)
        for label, row in zip(labels, rows, strict=True):
            label[row["label"]] = 1.0
        return labels


def check_item(item: Any, name: str, columns: Sequence[str], *more: str) -> None:
    """Check an item, which messages call ``name``, without reading a file.

    Args:
        item: the item, with image and text.
        name: what messages call the item, such as ``Item 3``.
        columns: the columns that the model reads, all of which it must have.
        *more: keys that it may have beside these.

    Raises:
        DataError: if it is no mapping, lacks a column, has another key, or has neither image nor
            text.
    """
    if not isinstance(item, Mapping):
        raise DataError(
            f"{name} is a {type(item).__name__}: give dictionaries such as "
            '{"image": "dish.jpg", "text": "Ramen"}.'
        )
    if unknown := sorted(set(item) - {"image", "text", *columns, *more}):
        known = ", ".join(["image", "text", *columns, *more])
        raise DataError(f"{name} has the key {unknown[0]!r}; known are {known}.")
    if absent := [column for column in columns if column not in item]:
        problem = f"{name} lacks {', '.join(absent)}, which the model reads"
        raise DataError(f"{problem}: give None if a value is not known.")
    image, text = item.get("image"), item.get("text")
    if image is None and text is None:
        raise DataError(f"{name} has neither image nor text: give one of them.")
    if isinstance(image, float) or (isinstance(image, str) and not image):
        raise DataError(f"{name} has {image!r} as image: give None if it has no image.")
    if not isinstance(text, str | None):
        raise DataError(
            f"{name} has a {type(text).__name__} as text ({text!r:.40}): give a string, or None "
            "if it has no text."
        )
    if text is not None and _HALF.search(text):
        raise DataError(f"{name} has half of a character in its text: encode it as UTF-8 again.")


def as_rgb(image: Any, min_size: int | None = None, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Convert an image to upright 8-bit RGB; see :func:`~epic_pl.data.images.read_image`.

    Raises:
        DataError: if it is not an :data:`ImageInput`, or cannot be read.
    """
    if isinstance(image, str) and "://" in image:
        raise DataError(f"{image} is an address: fetch the image, and give its file or bytes.")
    if isinstance(image, str | os.PathLike):
        return read_image(Path(image), min_size, max_pixels)
    if isinstance(image, bytes | bytearray | memoryview):
        return read_image(bytes(image), min_size, max_pixels)
    way_out = (
        "Give a path, a file's bytes, a PIL image, or pixels of shape (H, W), (H, W, 3) or "
        "(H, W, 4) as uint8, or (H, W) as uint16."
    )
    errors = (ValueError, TypeError, OSError)
    with raised_as(DataError, "This image cannot be used", way_out, *errors):
        is_image = isinstance(image, Image.Image)
        return upright_rgb(image.copy() if is_image else _from_pixels(np.asarray(image)))


def _from_pixels(pixels: npt.NDArray[Any]) -> Image.Image:
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    coloured = pixels.ndim == 3 and pixels.shape[2] in (3, 4)
    grey = pixels.ndim == 2
    fits = pixels.dtype == np.uint8 or (grey and pixels.dtype == np.uint16)
    if not (coloured or grey) or not fits or 0 in pixels.shape:
        raise ValueError(f"it is an array of shape {pixels.shape} and type {pixels.dtype}")
    return Image.fromarray(np.ascontiguousarray(pixels))
