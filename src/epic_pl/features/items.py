"""The images and texts of a feature store: their hashes, and their encoding.

Shape legend: B batch, N tokens.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor

from epic_pl.data import ImageTextDataModule
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.row_cache import ImageRecord
from epic_pl.features.dataset import ImageKey
from epic_pl.features.store.fill import StoreRequest, earlier_tokens
from epic_pl.features.store.reader import FeatureStore
from epic_pl.features.store.spec import Field, StoredDtype, StoreSpec
from epic_pl.nn.towers import TOKEN_AXES, TOKENS, FeatureLevel, Tower

Key = TypeVar("Key")


@dataclass
class Items(ABC, Generic[Key]):
    """The distinct images, or texts, of some splits, and their features.

    Attributes:
        tower: tower of the method, which encodes them.
        device: device of the encoder.
        data: DataModule with preprocessing and tokenizer.
        datasets: datasets of the splits; images are read without augmentation.
        level: level of the feature cache.
        dtype: data type of the stored numbers.
    """

    modality: ClassVar[Literal["image", "text"]]
    blank: ClassVar[Any]
    """An item that shows the fields' shapes, and stands for a modality that is missing."""

    tower: Tower
    device: torch.device
    data: ImageTextDataModule
    datasets: Sequence[ImageTextDataset]
    level: FeatureLevel
    dtype: StoredDtype

    @cached_property
    def keys(self) -> list[Key]:
        """The distinct items: images in the order of the rows, texts by length."""
        return list(dict.fromkeys(self._named())) or [self.blank]

    def request(self, root: Path) -> StoreRequest:
        """The request to :func:`fill_stores`; a blank item is encoded to find out shapes.

        If a store below ``root`` has the tokens of all items at an earlier layer, the encoder
        continues from them.

        Raises:
            ConfigError: the method cannot be trained from features of this level.
        """
        fields = []
        for name, tensor in self.encode(self._inputs([self.blank]))[0].items():
            shape, axis = list(tensor.shape[1:]), TOKEN_AXES.get(name)
            if axis is not None and self.modality == "text":
                shape[axis] = self.data.processor.max_text_tokens
            fields.append(Field(name, tuple(shape), axis))
        provenance = self._preparation() | self.tower.provenance
        provenance |= {
            "level": self.level,
            # the tokens that enter the first layer do not depend on later layers
            "layers": self.tower.layers[:1] if self.level == "tokens" else self.tower.layers,
        }
        name = getattr(self.data, f"{self.modality}_encoder")
        spec = StoreSpec(self.modality, provenance, tuple(fields), self.dtype, name)
        # if torch uses every core, decoding in parallel would slow it down by more than it saves
        busy = self.device.type == "cpu" and torch.get_num_threads() >= (os.cpu_count() or 1)
        request = StoreRequest(
            spec,
            self._hashes(),
            produce=self.encode,
            mean_tokens=self._mean_tokens(),
            prepare=lambda places: self._inputs([self.keys[place] for place in places]),
            prefetch=not busy,
        )
        if request.open(root) or not (source := earlier_tokens(root, spec, request.hashes)):
            return request
        layer = source.spec.first_layer
        return replace(
            request,
            produce=partial(self.encode, layer=layer),
            prepare=partial(_stored_tokens, source, request.hashes),
            layer=layer,
        )

    def encode(
        self, inputs: tuple[Tensor, Tensor | None], layer: int | None = None
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Run the encoder on inputs ``(B, ...)`` and their mask ``(B, N)``.

        With ``layer`` the inputs are tokens ``(B, N, d)`` that enter this layer.

        Returns fields ``(B, ...)`` and, for texts, numbers of tokens ``(B,)``.

        Raises:
            ConfigError: the method cannot be trained from features of this level.
        """
        values, mask = inputs
        mask = None if mask is None else mask.to(self.device)
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
            given = self.tower.features(values.to(self.device), mask, self.level, layer)
        features = {name: tensor.float().cpu() for name, tensor in given.items()}
        return features, None if mask is None else mask.sum(dim=1).cpu()

    @abstractmethod
    def _named(self) -> Iterable[Key]:
        """The items of all splits; some may occur twice."""

    @abstractmethod
    def _hashes(self) -> list[str]:
        """A string for each item that changes with the item's content."""

    @abstractmethod
    def _inputs(self, keys: Sequence[Key]) -> tuple[Tensor, Tensor | None]:
        """Inputs of the encoder ``(B, ...)`` and their mask ``(B, N)``."""

    @abstractmethod
    def _preparation(self) -> dict[str, Any]:
        """Plain values that the encoder's inputs depend on besides the item."""

    def _mean_tokens(self) -> float | None:
        """Mean number of tokens, estimated from some texts; None for images."""
        return None


def _stored_tokens(
    source: FeatureStore, hashes: Sequence[str], positions: Sequence[int]
) -> tuple[Tensor, Tensor | None]:
    """Tokens ``(B, N, d)`` of the items at some positions, and the mask ``(B, N)`` of texts."""
    stored = source.gather(source.find([hashes[position] for position in positions]))
    return stored[TOKENS].float(), stored.get("mask")


@dataclass
class Images(Items[ImageKey]):
    """The images of splits, without augmentation.

    Attributes:
        threads: number of threads that decode images.
    """

    modality = "image"
    blank = ImageKey("", "")

    threads: int

    def _named(self) -> Iterable[ImageKey]:
        for dataset in self.datasets:
            for path in dataset.distinct()[0]:
                yield ImageKey(str(dataset.image_root), path)

    def _hashes(self) -> list[str]:
        digests = {self.blank: "blank"}
        for dataset in self.datasets:
            found = ImageRecord(dataset.image_root, "digests").digests(dataset.distinct()[0])
            root = str(dataset.image_root)
            digests |= {ImageKey(root, path): digest for path, digest in found.items()}
        return [digests[key] for key in self.keys]

    def _inputs(self, keys: Sequence[ImageKey]) -> tuple[Tensor, None]:
        readers = {str(dataset.image_root): dataset for dataset in self.datasets}

        def pixels(key: ImageKey) -> Tensor:
            if key == self.blank:
                size = self.data.image_preprocessing.size
                return torch.zeros(3, size, size)
            return readers[key.root].image(key.path)

        with ThreadPoolExecutor(self.threads) as pool:
            return torch.stack(list(pool.map(pixels, keys))), None  # (B, 3, H, W)

    def _preparation(self) -> dict[str, Any]:
        return {"preprocessing": self.data.image_preprocessing.to_dict()}


class Texts(Items[str]):
    """The texts of splits."""

    modality = "text"
    blank = ""

    def _named(self) -> Iterable[str]:
        texts = (text for dataset in self.datasets for text in dataset.distinct()[1])
        return sorted(texts, key=len)  # batches of similar lengths have little padding

    def _hashes(self) -> list[str]:
        return [hashlib.sha256(text.encode()).hexdigest() for text in self.keys]

    def _mean_tokens(self) -> float:
        step = -(-len(self.keys) // 256)
        return float(self._inputs(self.keys[::step])[1].sum(1).float().mean())

    def _inputs(self, keys: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokens = self.data.processor.tokenize(keys)
        return tokens["input_ids"], tokens["attention_mask"].bool()

    def _preparation(self) -> dict[str, Any]:
        return {
            "tokenizer": self.data.processor.text.tokenizer,
            "max_tokens": self.data.processor.max_text_tokens,
            "prompt": self.data.processor.text.prompt,
            "padded": self.data.processor.text.padded,
        }
