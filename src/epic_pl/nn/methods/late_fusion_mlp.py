"""Late fusion: a small network on the frozen encoders' features."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from epic_pl.nn.methods.no_prompts import NoPrompts, NoPromptsConfig
from epic_pl.validate import check_positive, check_probabilities


@dataclass(frozen=True)
class LateFusionMLPConfig(NoPromptsConfig):
    """Options of late fusion.

    Attributes:
        hidden: width of the hidden layer.
        hidden_dropout: on its output.
    """

    hidden: int = 512
    hidden_dropout: float = 0.3

    def __post_init__(self) -> None:
        check_positive(self, "hidden")
        check_probabilities(self, "hidden_dropout")


class LateFusionMLP(NoPrompts):
    """``logits = Linear(Dropout(GELU(Linear(h))))``; arguments as of :class:`NoPrompts`."""

    def _classifier(
        self, config: LateFusionMLPConfig, num_classes: int
    ) -> Callable[[int], nn.Module]:
        return lambda width: nn.Sequential(
            nn.Linear(width, config.hidden),
            nn.GELU(),
            nn.Dropout(config.hidden_dropout),
            nn.Linear(config.hidden, num_classes),
        )
