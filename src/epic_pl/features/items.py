"""Images and texts as items of a feature store: their hashes, and what an encoder makes of them.

Shape legend: B batch, N tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from epic_pl.data import ImageTextDataModule
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.features.dataset import ImageKey
from epic_pl.features.digests import image_digests, text_digest, tokenizer_digest
from epic_pl.features.store.fill import Wanted
from epic_pl.features.store.spec import Field, StoredDtype, StoreSpec

Key = TypeVar("Key")
Level = Literal["boundary", "layers"]
Modality = Literal["image", "text"]

FEATURES_VERSION = 6
"""Part of every feature store's key: raised whenever an image's transform, a text's tokens or a
field that a tower stores changes its meaning, so that stores of before are not read."""

# which axis of a field counts tokens, without the batch axis
_TOKEN_AXES = {"memory": 3, "tokens": 0}


class FrozenEncoder(Protocol):
    """What a store's key needs of an encoder."""

    pooling: Any
    precision: torch.dtype | None

    @property
    def fingerprint(self) -> str:
        """Hash of its weights and configuration."""


class FeatureTower(Protocol):
    """What the feature cache needs of one modality's tower."""

    layers: list[int]

    @property
    def encoder(self) -> FrozenEncoder:
        """The frozen encoder."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the encoder's weights."""

    def features(self, inputs: Tensor, mask: Tensor | None, level: Level) -> dict[str, Tensor]:
        """The fields to store of each sample, batch first.

        Raises:
            ConfigError: the method cannot be trained from features of this level.
        """


class Items(ABC, Generic[Key]):
    """One modality's distinct items.

    Args:
        keys: of the items; without any, the blank item stands for a modality that is missing.
        tower: whose encoder is run.
        device: on which it is.
        data: whose preprocessing and tokenizer are used.
        level: of the cache.
        dtype: of the stored numbers.

    Attributes:
        modality: ``image`` or ``text``.
        blank: an item that shows the fields' shapes.
    """

    modality: Modality
    blank: Key

    def __init__(
        self,
        keys: Iterable[Key],
        tower: FeatureTower,
        device: torch.device,
        data: ImageTextDataModule,
        level: Level,
        dtype: StoredDtype,
    ) -> None:
        self.tower, self.device, self.data = tower, device, data
        self.level, self.dtype = level, dtype
        self.keys = list(dict.fromkeys(keys)) or [self.blank]

    def wanted(self) -> Wanted:
        """What the items' store must have."""

        def produce(positions: Sequence[int]) -> tuple[dict[str, Tensor], Tensor | None]:
            return self.encode([self.keys[position] for position in positions])

        return Wanted(self.spec, self._hashes(), produce, self._mean_tokens())

    @abstractmethod
    def _hashes(self) -> list[str]:
        """Strings that change with the items' content."""

    @abstractmethod
    def _inputs(self, keys: Sequence[Key]) -> tuple[Tensor, Tensor | None]:
        """The encoder's inputs ``(B, ...)`` and their mask ``(B, N)``."""

    @abstractmethod
    def _preparation(self) -> dict[str, Any]:
        """Plain values that the encoder's inputs depend on, beside the item."""

    def encode(self, keys: Sequence[Key]) -> tuple[dict[str, Tensor], Tensor | None]:
        """Run the encoder: fields ``(B, ...)``, and the number of tokens ``(B,)`` of ragged ones.

        Raises:
            ConfigError: the method cannot be trained from features of this level.
            DataError: an image cannot be read.
        """
        inputs, mask = self._inputs(keys)
        mask = None if mask is None else mask.to(self.device)
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
            given = self.tower.features(inputs.to(self.device), mask, self.level)
        features = {name: tensor.float().cpu() for name, tensor in given.items()}
        return features, None if mask is None else mask.sum(dim=1).cpu()

    def _mean_tokens(self) -> float | None:
        """Mean number of tokens of a sample of texts."""
        return None

    @cached_property
    def spec(self) -> StoreSpec:
        """The spec of the items' store; encodes the blank item.

        Raises:
            ConfigError: the method cannot be trained from features of this level.
        """
        example, _ = self.encode([self.blank])
        level, encoder = self.level, self.tower.encoder
        precision = str(encoder.precision or self.tower.dtype).removeprefix("torch.")
        identity = self._preparation() | {
            "version": FEATURES_VERSION,
            "fingerprint": encoder.fingerprint,
            "precision": precision,
            "pooling": encoder.pooling,
            "level": level,
            # the tokens that enter the first layer do not depend on later ones
            "layers": self.tower.layers[:1] if level == "boundary" else self.tower.layers,
        }
        max_tokens = self.data.collator.max_text_tokens if self.modality == "text" else None
        fields = tuple(_field(name, tensor, max_tokens) for name, tensor in example.items())
        name = getattr(self.data, f"{self.modality}_encoder")
        return StoreSpec(self.modality, identity, fields, self.dtype, name)


class Images(Items[ImageKey]):
    """The images of splits, as evaluation sees them.

    Args:
        *arguments: as for :class:`Items`, but for the keys.
        splits: datasets, of which no image is augmented.
        threads: that decode images.
        memory: file that remembers the images' digests.
    """

    modality: Modality = "image"
    blank = ImageKey("", "")

    def __init__(
        self, *arguments: Any, splits: Sequence[ImageTextDataset], threads: int, memory: Path
    ) -> None:
        self._datasets = {str(dataset.image_root): dataset for dataset in splits}
        keys = (
            ImageKey(str(dataset.image_root), path)
            for dataset in splits
            for path in dataset.distinct()[0]
        )
        super().__init__(keys, *arguments)
        self._threads, self._memory = threads, memory

    def _hashes(self) -> list[str]:
        digests = image_digests((key for key in self.keys if key != self.blank), self._memory)
        return [digests.get(key, "blank") for key in self.keys]

    def _inputs(self, keys: Sequence[ImageKey]) -> tuple[Tensor, None]:
        with ThreadPoolExecutor(self._threads) as pool:
            return torch.stack(list(pool.map(self._pixels, keys))), None  # (B, 3, H, W)

    def _pixels(self, key: ImageKey) -> Tensor:
        if key == self.blank:
            size = self.data.image_preprocessing.size
            return torch.zeros(3, size, size)
        return self._datasets[key.root].image(key.path)

    def _preparation(self) -> dict[str, Any]:
        return {"preprocessing": self.data.image_preprocessing.to_dict()}


class Texts(Items[str]):
    """Texts, tokenised."""

    modality: Modality = "text"
    blank = ""

    def _hashes(self) -> list[str]:
        return [text_digest(text) for text in self.keys]

    def _mean_tokens(self) -> float:
        step = -(-len(self.keys) // 256)
        return float(self._inputs(self.keys[::step])[1].sum(1).float().mean())

    def _inputs(self, keys: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokens = self.data.collator.tokenize(keys)
        return tokens["input_ids"], tokens["attention_mask"].bool()

    def _preparation(self) -> dict[str, Any]:
        return {
            "tokenizer": tokenizer_digest(self.data.collator.tokenizer),
            "max_tokens": self.data.collator.max_text_tokens,
        }


def _field(name: str, example: Tensor, max_tokens: int | None) -> Field:
    """A field's shape from one item's tensor ``(1, ...)``; texts may be longer than the example."""
    shape, axis = list(example.shape[1:]), _TOKEN_AXES.get(name)
    if axis is not None and max_tokens is not None:
        shape[axis] = max_tokens
    return Field(name, tuple(shape), axis)
