"""Collation of samples to batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from epic_pl.errors import ConfigError, DataError
from epic_pl.types import Batch, Reference, Sample, Task

# a tokenizer needs 250 bytes per character of a whole text, of which it then keeps the beginning
CHARACTERS_PER_TOKEN = 1000


class Collator:
    """Puts samples into a :class:`~epic_pl.types.Batch`; picklable, so that workers can hold it.

    An absent image becomes zeros and an absent text the tokens of an empty string, with False in
    the presence mask; an empty string is a text that is present. A batch has no masks if all images
    and texts are present, and no ``labels`` if one of them is unknown.

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
