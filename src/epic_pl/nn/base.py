"""What every method shares: two encoders, who is present, and what stands in for the absent.

Shape legend: B batch, N_t text tokens, d width, P vectors of a modality, C classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from epic_pl.errors import ConfigError
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.heads.classification import ClassificationHead
from epic_pl.nn.presence import drop_modalities
from epic_pl.nn.towers import FeatureLevel, Tower
from epic_pl.types import Batch

# heads see what there is of the picture and of the text in turn
_TEXT_PART = 1


class DualEncoder(nn.Module, ABC):
    """A model of pictures and texts on two encoders; a method is a subclass with a ``forward``.

    Trained parts under the name ``head`` learn at the head's rate, encoders at :attr:`encoder_lr`,
    all else at the prompts' rate.

    Args:
        image_tower: the image encoder and how the method runs through it.
        text_tower: the same of the text encoder.
        modality_dropout: probability with which a training sample loses picture or text.
        stand_ins: how many learned vectors stand in for an absent modality, see :meth:`stand_in`.
    """

    encoder_lr: float | None = None
    """Learning rate of what is trained inside the encoders; None where nothing is."""

    interaction_weight: Tensor | None
    """Scalar from 0 to 2, fitted on validation: how much of what is not said by the summaries
    alone is believed; None where a method has but one way to the classes."""

    text_layers_seen: tuple[int, ...] = ()
    """Layers of the text encoder such that the head sees the mean of what enters them, rising."""

    keeps_partial_logits: bool = False
    """Whether ``forward`` leaves :attr:`partial_logits`, and gives logits that are not weighed."""

    partial_logits: Sequence[Tensor] = ()
    """Each ``(B, C)``, of the last ``forward``: what the summaries alone say, then what the
    linear map of summaries and prompts says without the similarity; of a method that has them
    and adds something to them."""

    def __init__(
        self,
        image_tower: Tower[Any],
        text_tower: Tower[Any],
        modality_dropout: float = 0.0,
        stand_ins: int = 1,
    ) -> None:
        super().__init__()
        self.image_tower = image_tower
        self.text_tower = text_tower
        self.modality_dropout = modality_dropout
        self.register_buffer("interaction_weight", None)
        if stand_ins:
            self.absent_image = nn.Parameter(torch.zeros(stand_ins * image_tower.encoder.width))
            self.absent_text = nn.Parameter(torch.zeros(stand_ins * text_tower.encoder.width))

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Logits ``(B, C)`` of a batch."""

    @property
    def image_encoder(self) -> Encoder:
        """The image encoder."""
        return self.image_tower.encoder

    @property
    def text_encoder(self) -> Encoder:
        """The text encoder."""
        return self.text_tower.encoder

    @property
    def cache_levels(self) -> tuple[FeatureLevel, ...]:
        """What a feature cache can store for this method, the least work a step last."""
        return self.image_tower.levels

    def extract(
        self, batch: Batch, image_present: Tensor | None, text_present: Tensor | None
    ) -> tuple[Any, Any]:
        """Both towers before the method's own part: run, or restored from a feature cache."""
        text_mask = batch["attention_mask"].bool()  # (B, N_t)
        if "image_features" in batch:
            image = self.image_tower.restore(batch["image_features"], None, image_present)
        else:
            image = self.image_tower.extract(batch["pixel_values"], None, image_present)
        if "text_features" in batch:
            text = self.text_tower.restore(batch["text_features"], text_mask, text_present)
        else:
            text = self.text_tower.extract(batch["input_ids"], text_mask, text_present)
        return image, text

    def presence(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """Which modalities count ``(B,)``, training drops included; None twice if all do."""
        probability = self.modality_dropout if self.training else 0.0
        given = "image_present" in batch or "text_present" in batch
        if not given and probability == 0:
            return None, None
        mask = batch["attention_mask"]
        everyone = torch.ones(mask.shape[0], dtype=torch.bool, device=mask.device)
        image_present = batch.get("image_present", everyone).bool()
        text_present = batch.get("text_present", everyone).bool()
        if probability > 0:
            image_present, text_present = drop_modalities(image_present, text_present, probability)
        return image_present, text_present

    def start_from_names(self, names: Tensor, scale: float) -> None:
        """Let the head start from encoded class names.

        Args:
            names: ``(C, P, d_t)``, what the text encoder says of them.
            scale: see :meth:`~epic_pl.nn.heads.classification.ClassificationHead.start_from_names`.
        """
        head = getattr(self, "head", None)
        if isinstance(head, ClassificationHead) and head.has_summaries:
            # picture and text in turn
            for number, vectors in enumerate(names.unbind(dim=1)):
                head.start_from_names(2 * number + _TEXT_PART, vectors, scale)

    @torch.no_grad()
    def start_from_means(self, image: Tensor | None, text: Tensor | None) -> None:
        """Let what stands in for an absent modality start at a mean ``(P d,)``; None leaves it."""
        for name, mean in (("absent_image", image), ("absent_text", text)):
            vector = getattr(self, name, None)
            if vector is not None and mean is not None:
                vector.copy_(mean)

    def stand_in(
        self,
        image: Tensor,
        text: Tensor,
        image_present: Tensor | None,
        text_present: Tensor | None,
    ) -> list[Tensor]:
        """What the encoders say, each ``(B, P d)``, with learned vectors where one is absent.

        P is 1, the pooled output, or how many vectors a method has of each modality.
        """
        return [
            _stand_in(image, image_present, self.absent_image),
            _stand_in(text, text_present, self.absent_text),
        ]


class PooledClassifier(DualEncoder):
    """A head on what both encoders pool: all of a method that adds nothing before the pooling.

    A subclass makes the towers, whose states are pooled outputs, and the head.
    """

    head: nn.Module

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``(B, C)``."""
        present = self.presence(batch)
        logits: Tensor = self.head(self.stand_in(*self.extract(batch, *present), *present))
        return logits


def check_choices(config: Any) -> None:
    """Refuse options of a method's config that are none of the words they may be.

    Raises:
        ConfigError: naming the first one, and the words.
    """
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            words = ", ".join(map(repr, get_args(kind)))
            raise ConfigError(f"{name} is {value!r}, but may be {words}.")


def check_probabilities(config: Any, *names: str) -> None:
    """Refuse options of a method's config that are no probabilities.

    Raises:
        ConfigError: naming the first one.
    """
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise ConfigError(f"{name} is a probability, not {getattr(config, name)}.")


def check_positive(config: Any, *names: str) -> None:
    """Refuse options of a method's config that are not above zero.

    Raises:
        ConfigError: naming the first one.
    """
    for name in names:
        if getattr(config, name) <= 0:
            raise ConfigError(f"{name} must be positive, not {getattr(config, name)}.")


def _stand_in(pooled: Tensor, present: Tensor | None, vector: Tensor) -> Tensor:
    """``pooled (B, P d)`` with the learned ``vector (P d,)`` where a sample's modality is absent.

    The vector is part of the graph even if nobody is absent: under DDP each trained tensor must
    get a gradient in every step.
    """
    if present is None:
        present = torch.ones(pooled.shape[0], dtype=torch.bool, device=pooled.device)
    return torch.where(present[:, None], pooled, vector)
