"""The classification head on frozen features without prompts, the control of EPIC.

Shape legend: C classes.
"""

from dataclasses import dataclass
from typing import Any

from epic_pl.nn.base import DualEncoder, Output
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.heads import ClassificationHead, HeadConfig
from epic_pl.nn.pair import Pair
from epic_pl.nn.towers import FrozenTower
from epic_pl.utils.types import Batch


@dataclass(frozen=True)
class NoPromptsConfig:
    """The method has no options."""


class NoPrompts(DualEncoder):
    """The head on frozen features; with a plain head it is a linear probe.

    Args:
        encoders: the image and text encoder.
        num_classes: number of classes C.
        config: options of the method.
        head: parts of the head.
        modality_dropout: probability with which a training sample loses one modality.
        boundary: layer of each encoder whose entering tokens are the boundary features.
    """

    tower: type[FrozenTower] = FrozenTower

    def __init__(
        self,
        encoders: Pair[Encoder],
        num_classes: int,
        config: Any,
        head: HeadConfig,
        modality_dropout: float,
        boundary: Pair[int],
    ) -> None:
        super().__init__(
            self.tower(encoders.image, [boundary.image]),
            self.tower(encoders.text, [boundary.text]),
            modality_dropout,
        )
        self.head = ClassificationHead(self.widths, num_classes, head)

    def forward(self, batch: Batch) -> Output:
        """The head's output for the pooled features."""
        present = self.presence(batch)
        return self.classify(self.pool(*self.extract(batch, present)), None, present)
