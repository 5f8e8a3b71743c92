"""Full fine-tuning: both encoders learn in whole.

Shape legend: B batch, N tokens, d width, C classes.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from epic_pl.nn.base import (
    PooledClassifier,
    check_choices,
    check_positive,
    check_probabilities,
)
from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.encoders.blank import blank_input
from epic_pl.nn.heads.classification import ClassificationHead, HeadNorm
from epic_pl.nn.towers import FeatureLevel, Tower


class TrainedTower(Tower[Tensor]):
    """A whole encoder with gradient, of which the pooled output ``(B, d)`` is used."""

    levels: tuple[FeatureLevel, ...] = ()
    needs = "it trains inside the encoders, so what they give changes with every step"

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder, [encoder.num_layers])

    def boundary(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens ``(B, N, d)`` behind the last layer."""
        tokens = self.encoder.embed(inputs)
        return self.encoder.run_layers(0, self.encoder.num_layers, tokens, mask)

    def start(self, tokens: Tensor, mask: Tensor | None, present: Tensor | None) -> Tensor:
        """The encoder's pooled output."""
        return self.encoder.pool(tokens, mask)

    def pool(self, state: Tensor) -> Tensor:
        """The state itself."""
        return state


@dataclass(frozen=True)
class FineTunedConfig:
    """Switches of full fine-tuning; the head's and ``modality_dropout`` are those of EPIC.

    Attributes:
        encoder_lr: peak learning rate inside the encoders.
        head_norm: as for EPIC.
        head_dropout: as for EPIC.
        modality_dropout: as for EPIC.
    """

    encoder_lr: float = 2e-5
    head_norm: HeadNorm = "parts"
    head_dropout: float = 0.1
    modality_dropout: float = 0.0

    def __post_init__(self) -> None:
        check_choices(self)
        check_positive(self, "encoder_lr")
        check_probabilities(self, "head_dropout", "modality_dropout")


class FineTuned(PooledClassifier):
    """``logits = Linear(LN([pool_v; pool_t]))`` on encoders that learn too.

    Dropout inside the encoders is awake in training, as their libraries have it.

    Args:
        image_encoder: thawed here.
        text_encoder: thawed here.
        num_classes: C.
        config: the switches.
    """

    def __init__(
        self,
        image_encoder: Encoder,
        text_encoder: Encoder,
        num_classes: int,
        config: FineTunedConfig | None = None,
    ) -> None:
        config = config or FineTunedConfig()
        super().__init__(
            TrainedTower(image_encoder), TrainedTower(text_encoder), config.modality_dropout
        )
        self.config = config
        self.encoder_lr = config.encoder_lr
        for tower in (self.image_tower, self.text_tower):
            # what has no part in the output would never get a gradient, which DDP waits for
            used = _used_parameters(tower)
            self._make_trainable(tower.encoder.thaw(), used)
        widths = [image_encoder.width, text_encoder.width]
        self.head = ClassificationHead(widths, num_classes, config.head_dropout, config.head_norm)

    def _make_trainable(self, model: nn.Module, used: set[str]) -> None:
        """Choose what is trained of a library's module; ``used`` are names of its parameters."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in used)


@torch.enable_grad()
def _used_parameters(tower: Tower[Any]) -> set[str]:
    """Names, in the library's module, of the parameters that the pooled output depends on.

    One blank input is run to see: no list of exceptions could keep up with the libraries.
    """
    model = tower.encoder.model
    names, parameters = zip(*model.named_parameters(), strict=True)
    model.requires_grad_(True)
    pooled = tower.extract(blank_input(model).to(parameters[0].device), None, None)
    gradients = torch.autograd.grad(pooled.sum(), parameters, allow_unused=True)
    model.requires_grad_(False)
    return {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
