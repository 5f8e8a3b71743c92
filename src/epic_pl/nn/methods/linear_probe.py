"""A linear probe: the frozen encoders' pooled outputs and a linear head.

Shape legend: B batch, N tokens, d width, C classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from epic_pl.lazy_tensor import whole
from epic_pl.nn.base import PooledClassifier, check_choices, check_probabilities
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.heads.classification import ClassificationHead, HeadNorm
from epic_pl.nn.towers import FeatureLevel, Tower
from epic_pl.types import Features


class PooledTower(Tower[Tensor]):
    """A frozen encoder of which nothing but the pooled output ``(B, d)`` is used."""

    levels = ("layers",)
    needs = "no prompt enters a layer, so there is no boundary"

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder, [encoder.num_layers])

    @torch.no_grad()
    def start(self, tokens: Tensor, mask: Tensor | None, present: Tensor | None) -> Tensor:
        """The encoder's pooled output."""
        with self.lowered():
            return self.raised(self.encoder.pool(tokens, mask))

    def features(
        self, inputs: Tensor, mask: Tensor | None, level: FeatureLevel
    ) -> dict[str, Tensor]:
        """``pooled (B, d)``."""
        if level not in self.levels:
            return super().features(inputs, mask, level)
        return {"pooled": self.extract(inputs, mask, None)}

    def restore(self, features: Features, mask: Tensor | None, present: Tensor | None) -> Tensor:
        """What was stored."""
        return whole(features["pooled"]).to(self.dtype)

    def pool(self, state: Tensor) -> Tensor:
        """The state itself."""
        return state


@dataclass(frozen=True)
class LinearProbeConfig:
    """Switches of the probe; they mean what they mean for EPIC."""

    head_norm: HeadNorm = "parts"
    head_dropout: float = 0.1
    modality_dropout: float = 0.0

    def __post_init__(self) -> None:
        check_choices(self)
        check_probabilities(self, "head_dropout", "modality_dropout")


class LinearProbe(PooledClassifier):
    """``logits = Linear(LN([pool_v; pool_t]))`` on frozen encoders.

    Args:
        image_encoder: frozen.
        text_encoder: frozen.
        num_classes: C.
        config: the switches.
    """

    def __init__(
        self,
        image_encoder: Encoder,
        text_encoder: Encoder,
        num_classes: int,
        config: LinearProbeConfig | None = None,
    ) -> None:
        config = config or LinearProbeConfig()
        super().__init__(
            PooledTower(image_encoder), PooledTower(text_encoder), config.modality_dropout
        )
        widths = [image_encoder.width, text_encoder.width]
        self.head = ClassificationHead(widths, num_classes, config.head_dropout, config.head_norm)
