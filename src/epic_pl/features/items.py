"""One modality's items: how they are known, and what the frozen encoder makes of them.

Shape legend: B batch, N tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from epic_pl.data import ImageTextDataModule
from epic_pl.features import Field, Kind, StoredDtype, StoreSpec, find_spec
from epic_pl.features.dataset import FEATURES_VERSION
from epic_pl.module import EPICModule
from epic_pl.nn.towers import FeatureLevel, Tower

Key = TypeVar("Key")
Encoded = tuple[dict[str, Tensor], Tensor | None]  # fields (B, ...), and of ragged ones B lengths

# which axis of a field counts tokens, the batch's left out
_TOKEN_AXES = {"memory": 3, "tokens": 0}


@dataclass(frozen=True)
class CacheOptions:
    """Options of :class:`~epic_pl.callbacks.feature_cache.FeatureCache`, the cache being on."""

    level: FeatureLevel
    dtype: StoredDtype
    root: Path
    views: int
    batch_size: int
    threads: int


class Items(ABC, Generic[Key]):
    """One modality's items.

    Attributes:
        kind: the modality.
        blank: an item that any run has, for splits in which every row lacks the modality.
    """

    kind: Kind
    blank: Key

    def __init__(
        self, options: CacheOptions, module: EPICModule, data: ImageTextDataModule
    ) -> None:
        self.options, self.module, self.data = options, module, data
        self.tower: Tower[Any] = getattr(module.model, f"{self.kind}_tower")

    @abstractmethod
    def hashes(self, keys: Sequence[Key]) -> list[str]:
        """Strings that change with the items' content."""

    def remember(self) -> None:
        """Keep for later runs what hashing found out."""

    @abstractmethod
    def _inputs(self, keys: Sequence[Key]) -> tuple[Tensor, Tensor | None]:
        """What the encoder takes ``(B, ...)``, and its mask ``(B, N)``."""

    @abstractmethod
    def _preparation(self) -> dict[str, Any]:
        """Plain values that the encoder's inputs depend on, beside the item."""

    def encode(self, keys: Sequence[Key]) -> Encoded:
        """Run the frozen encoder.

        Raises:
            ConfigError: if the method has nothing of the cache's level.
            DataError: if a picture cannot be read.
        """
        inputs, mask = self._inputs(keys)
        with torch.inference_mode(), torch.autocast(inputs.device.type, enabled=False):
            given = self.tower.features(inputs, mask, self.options.level)
        features = {name: tensor.float().cpu() for name, tensor in given.items()}
        lengths = mask.sum(dim=1).cpu() if mask is not None and _ragged(features) else None
        return features, lengths

    @cached_property
    def spec(self) -> StoreSpec:
        """What is stored: as a store on the disk has it, else after a look at one item.

        Raises:
            ConfigError: if the method has nothing of the cache's level.
        """
        level, identity = self.options.level, self._identity()
        if level not in self.tower.levels:
            self.tower.features(torch.empty(0), None, level)  # it says why, and the way out
        found = find_spec(self.options.root, self.kind, identity, self.options.dtype)
        return found or self._spec_of(self.encode([self.blank])[0], identity)

    @property
    def free(self) -> tuple[str, ...]:
        """What of the identity the fields do not depend on, as pooled outputs on other layers."""
        pooled = {field.name for field in self.spec.fields} == {"pooled"}
        return ("layers", "tower") if pooled else ()

    @property
    def precision(self) -> str:
        """In which the encoder is run."""
        precision = getattr(self.tower, "precision", None) or self.tower.dtype
        return str(precision).removeprefix("torch.")

    def _spec_of(self, example: dict[str, Tensor], identity: dict[str, Any]) -> StoreSpec:
        ragged = self.kind == "text" and _ragged(example)
        max_tokens = self.data.collator.max_text_tokens if ragged else None
        fields = tuple(_field(name, tensor, max_tokens) for name, tensor in example.items())
        return StoreSpec(self.kind, identity, fields, self.options.dtype, ragged)

    def _identity(self) -> dict[str, Any]:
        boundary, encoder = self.options.level == "boundary", self.tower.encoder
        return self._preparation() | {
            "version": FEATURES_VERSION,
            "encoder": getattr(self.data, f"{self.kind}_encoder"),
            "fingerprint": encoder.fingerprint,
            "precision": self.precision,
            "pooling": encoder.pooling,
            "level": self.options.level,
            # later layers leave no trace in what enters the first
            "layers": self.tower.layers[:1] if boundary else self.tower.layers,
            # towers differ in what they store of the same layers, but for the first one's tokens
            "tower": "any" if boundary else type(self.tower).__name__,
        }


def in_place(module: EPICModule) -> tuple[str, ...]:
    """Fields that a module on its present device can read where they are stored."""
    return ("memory",) if module.reads_in_place else ()


def _ragged(fields: dict[str, Tensor]) -> bool:
    """Whether any of a text's fields has an axis of tokens."""
    return any(name in _TOKEN_AXES for name in fields)


def _field(name: str, example: Tensor, max_tokens: int | None) -> Field:
    """A field's shape from one item's tensor ``(1, ...)``; texts may be longer than the example."""
    shape, axis = list(example.shape[1:]), _TOKEN_AXES.get(name)
    if axis is not None and max_tokens is not None:
        shape[axis] = max_tokens
    return Field(name, tuple(shape), axis)
