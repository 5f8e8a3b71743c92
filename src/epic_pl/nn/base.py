"""What every method shares: two encoders, which modalities are present, and a head.

Shape legend: B batch, N text tokens, C classes.
"""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from epic_pl.lazy_tensor import LazyTensor
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.heads import ClassificationHead, Pooled
from epic_pl.nn.interaction import ScaledCosine
from epic_pl.nn.pair import Pair, Presence, drop_modalities, where_present
from epic_pl.nn.towers import FeatureLevel, Tower
from epic_pl.types import Batch, Features


class Output(NamedTuple):
    """What a model gives for a batch."""

    logits: Tensor
    """``(B, C)``."""
    pooled: Pair[Pooled]
    """Of both modalities, as the head receives them."""
    compared: Pair[Tensor] | None
    """What the model compares of image ``(B, n_v, r)`` and text ``(B, n_t, r)`` before either depends
    on the other, zero where missing; None where it compares nothing."""


class DualEncoder(nn.Module, ABC):
    """A model of images and texts on two encoders; a method is a subclass with a ``forward``.

    Trained parts under the name ``head`` learn at the head's rate, encoders at :attr:`encoder_lr`,
    all else at the prompts' rate.

    Args:
        image_tower: the image encoder and how the method runs through it.
        text_tower: the same of the text encoder.
        modality_dropout: probability with which a training sample loses one modality.
    """

    head: ClassificationHead
    encoder_lr: float | None = None
    """Learning rate of what is trained inside the encoders; None where nothing is."""

    def __init__(
        self, image_tower: Tower[Any], text_tower: Tower[Any], modality_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.image_tower = image_tower
        self.text_tower = text_tower
        self.modality_dropout = modality_dropout

    @abstractmethod
    def forward(self, batch: Batch) -> Output:
        """Logits and what the loss and embeddings need beside them."""

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
        """What a feature cache can store for this method, the least work a step last."""
        return self.image_tower.levels

    @property
    def matcher(self) -> ScaledCosine | None:
        """Compares :attr:`Output.compared`; None where nothing does."""
        return self.head.similarity.cosine if self.head.similarity else None

    def extract(self, batch: Batch, present: Presence) -> Pair[Any]:
        """Both towers' states before step 1: run, or restored from a feature cache.

        Inputs of a missing modality are ignored, whatever they hold.
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
        """Masks of the present modalities, training drops included; None twice if all are."""
        probability = self.modality_dropout if self.training else 0.0
        given = "image_present" in batch or "text_present" in batch
        if not given and probability == 0:
            return Pair(None, None)
        mask = batch["attention_mask"]
        everyone = torch.ones(mask.shape[0], dtype=torch.bool, device=mask.device)
        present = Pair(
            batch.get("image_present", everyone).bool(), batch.get("text_present", everyone).bool()
        )
        return drop_modalities(present, probability) if probability > 0 else Pair(*present)

    def classify(
        self,
        pooled: Pair[Pooled],
        prompts: Pair[Tensor] | None,
        present: Presence,
        scores: Tensor | None = None,
        compared: Pair[Tensor] | None = None,
    ) -> Output:
        """The head's output; without ``compared``, what its similarity term compares."""
        logits, projected = self.head(pooled, prompts, present, scores)
        return Output(logits, pooled, projected if compared is None else compared)

    def pool(self, image: Any, text: Any) -> Pair[Pooled]:
        """What both towers pool of their last states."""
        return Pair(self.image_tower.pool(image), self.text_tower.pool(text))


def _only_present(features: Features, present: Tensor | None) -> Features:
    """Features with zeros where the modality is missing; those on the disk are finite anyway."""
    return {
        name: field if isinstance(field, LazyTensor) else where_present(field, present)
        for name, field in features.items()
    }
