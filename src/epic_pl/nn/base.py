"""The base class of all methods: two encoders, presence masks, and a head.

Shape legend: B batch, N text tokens, C classes.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.heads import ClassificationHead, Pooled
from epic_pl.nn.interaction import ScaledCosine
from epic_pl.nn.pair import Pair, Presence, drop_modalities, where_present
from epic_pl.nn.towers import FeatureLevel, Tower
from epic_pl.utils.types import Batch, Features


class Output(NamedTuple):
    """The output of a model for a batch."""

    logits: Tensor
    """``(B, C)``."""
    pooled: Pair[Pooled]
    """Pooled features of both modalities, the input of the head."""
    compared: Pair[Tensor] | None
    """Vectors of the image ``(B, n_v, r)`` and the text ``(B, n_t, r)`` that the model compares
    before either depends on the other, zero where missing; None if the model compares nothing."""


class DualEncoder(nn.Module, ABC):
    """A model of images and texts on two encoders; a method is a subclass with a ``forward``.

    Parameters under the name ``head`` are trained at the head's learning rate, encoders at
    :attr:`encoder_lr`, and all others at the prompts' rate.

    Args:
        image_tower: the image encoder and how the method runs it.
        text_tower: the same for the text encoder.
        modality_dropout: probability with which a training sample loses one modality.
    """

    head: ClassificationHead
    encoder_lr: float | None = None
    """Learning rate of the parameters inside the encoders; None if these are frozen."""

    def __init__(
        self, image_tower: Tower[Any], text_tower: Tower[Any], modality_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.image_tower = image_tower
        self.text_tower = text_tower
        self.modality_dropout = modality_dropout

    @abstractmethod
    def forward(self, batch: Batch) -> Output:
        """Logits, and the features that the matching loss and embeddings need."""

    @property
    def towers(self) -> Pair[Tower[Any]]:
        """Both towers."""
        return Pair(self.image_tower, self.text_tower)

    @property
    def image_encoder(self) -> Encoder:
        """The image encoder."""
        return self.image_tower.encoder

    @property
    def text_encoder(self) -> Encoder:
        """The text encoder."""
        return self.text_tower.encoder

    @property
    def widths(self) -> Pair[int]:
        """d_v and d_t."""
        return Pair(self.image_encoder.width, self.text_encoder.width)

    @property
    def cache_levels(self) -> tuple[FeatureLevel, ...]:
        """Levels of the feature cache that this method supports, the fastest last."""
        return self.image_tower.levels

    @property
    def matcher(self) -> ScaledCosine | None:
        """The similarity of :attr:`Output.compared`; None if the model compares nothing."""
        return self.head.similarity.cosine if self.head.similarity else None

    def extract(self, batch: Batch, present: Presence) -> Pair[Any]:
        """Both towers' states before step 1, computed or restored from a feature cache.

        Inputs of a missing modality are ignored, even NaN.
        """
        mask = batch["attention_mask"].bool()  # (B, N)
        if "image_features" in batch:
            image_features = _only_present(batch["image_features"], present.image)
            image = self.image_tower.restore(image_features, None, present.image)
        else:
            pixels = where_present(batch["pixel_values"], present.image)
            image = self.image_tower.extract(pixels, None, present.image)
        if "text_features" in batch:
            text_features = _only_present(batch["text_features"], present.text)
            text = self.text_tower.restore(text_features, mask, present.text)
        else:
            text = self.text_tower.extract(batch["input_ids"], mask, present.text)
        return Pair(image, text)

    def presence(self, batch: Batch) -> Presence:
        """Masks of the present modalities after modality dropout; both None if all are present."""
        probability = self.modality_dropout if self.training else 0.0
        given = "image_present" in batch or "text_present" in batch
        if not given and probability == 0:
            return Pair(None, None)
        mask = batch["attention_mask"]
        complete = torch.ones(mask.shape[0], dtype=torch.bool, device=mask.device)
        present = Pair(
            batch.get("image_present", complete).bool(), batch.get("text_present", complete).bool()
        )
        return drop_modalities(present, probability) if probability > 0 else Pair(*present)

    def classify(
        self,
        pooled: Pair[Pooled],
        prompts: Pair[Tensor] | None,
        present: Presence,
        part_features: Tensor | None = None,
        compared: Pair[Tensor] | None = None,
    ) -> Output:
        """The head's output; ``compared`` defaults to the vectors of its similarity term."""
        logits, projected = self.head(pooled, prompts, present, part_features)
        return Output(logits, pooled, projected if compared is None else compared)

    def pool(self, image: Any, text: Any) -> Pair[Pooled]:
        """Pooled features of both towers' last states."""
        return Pair(self.image_tower.pool(image), self.text_tower.pool(text))


def _only_present(features: Features, present: Tensor | None) -> Features:
    """Features with zeros where the modality is missing; stored lists are finite and stay."""
    return {
        name: field if isinstance(field, list) else where_present(field, present)
        for name, field in features.items()
    }
