"""No prompts: the classification head on the frozen encoders' features, the control of EPIC."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from epic_pl.nn.base import PooledClassifier
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.heads import ClassificationHead, HeadConfig
from epic_pl.nn.pair import Pair
from epic_pl.nn.towers import PooledTower


@dataclass(frozen=True)
class NoPromptsConfig:
    """It has no options of its own."""


class NoPrompts(PooledClassifier):
    """The head on frozen features; with a plain head it is a linear probe.

    Args:
        encoders: the frozen image and text encoder.
        num_classes: number of classes C.
        config: no options.
        head: parts of the head.
        modality_dropout: probability with which a training sample loses one modality.
        boundary: layer of each encoder whose entering tokens are the boundary features.
    """

    def __init__(
        self,
        encoders: Pair[Encoder],
        num_classes: int,
        config: NoPromptsConfig,
        head: HeadConfig,
        modality_dropout: float,
        boundary: Pair[int],
    ) -> None:
        layers = boundary if head.boundary else Pair(None, None)
        super().__init__(
            PooledTower(encoders.image, layers.image),
            PooledTower(encoders.text, layers.text),
            modality_dropout,
        )
        self.head = ClassificationHead(
            self.widths,
            num_classes,
            head,
            num_means=int(head.boundary),
            classifier=self._classifier(config, num_classes),
        )

    def _classifier(self, config: object, num_classes: int) -> Callable[[int], nn.Module] | None:
        """What maps the features to logits; None is a linear layer."""
        return None
