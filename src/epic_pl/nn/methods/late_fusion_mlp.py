"""Late fusion: the frozen encoders' pooled outputs and a small network on top.

Shape legend: B batch, d width, C classes.
"""

from dataclasses import dataclass

from torch import nn

from epic_pl.nn.base import (
    PooledClassifier,
    check_choices,
    check_positive,
    check_probabilities,
)
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.heads.classification import ClassificationHead, HeadNorm
from epic_pl.nn.methods.linear_probe import PooledTower


@dataclass(frozen=True)
class LateFusionMLPConfig:
    """Switches of late fusion.

    Attributes:
        hidden: width of the hidden layer.
        hidden_dropout: on its output.
        head_norm: as for EPIC.
        modality_dropout: as for EPIC.
    """

    hidden: int = 512
    hidden_dropout: float = 0.3
    head_norm: HeadNorm = "parts"
    modality_dropout: float = 0.0

    def __post_init__(self) -> None:
        check_choices(self)
        check_positive(self, "hidden")
        check_probabilities(self, "hidden_dropout", "modality_dropout")


class LateFusionMLP(PooledClassifier):
    """``logits = Linear(Dropout(GELU(Linear([LN(pool_v); LN(pool_t)]))))``.

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
        config: LateFusionMLPConfig | None = None,
    ) -> None:
        config = config or LateFusionMLPConfig()
        super().__init__(
            PooledTower(image_encoder), PooledTower(text_encoder), config.modality_dropout
        )
        widths = [image_encoder.width, text_encoder.width]
        self.head = nn.Sequential(
            ClassificationHead(widths, config.hidden, norm=config.head_norm),
            nn.GELU(),
            nn.Dropout(config.hidden_dropout),
            nn.Linear(config.hidden, num_classes),
        )
