"""Control of EPIC: the last layers of both encoders are trained, from stored tokens.

It is what prompts must beat: it stores as little as `joint` EPIC, and no layer before those that it
trains runs in a step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from epic_pl.nn.methods.fine_tuned import FineTunedModel, FullFineTuning
from epic_pl.nn.towers import FrozenTower


class LastLayersTower(FrozenTower):
    """Tokens that enter the first of the layers are frozen; the layers run with gradient."""

    levels = ("tokens",)
    not_stored_because = "It trains the last layers, so their outputs change with every step."
    trains_encoder = True

    @torch.no_grad()
    def entering(self, inputs: Tensor, mask: Tensor | None, layer: int | None = None) -> Tensor:
        """The frozen tokens ``(B, N, d)``, so that no earlier layer counts as used."""
        return super().entering(inputs, mask, layer)


class LastLayersModel(FineTunedModel):
    """The classification head on encoders whose last layers are trained."""

    tower = LastLayersTower

    def _make_trainable(self, model: nn.Module, used: set[str]) -> None:
        for name, parameter in model.named_parameters():
            vector = parameter.ndim <= 1
            parameter.requires_grad_(name in used and (vector or not self.method.vectors))


@dataclass(frozen=True)
class LastLayers(FullFineTuning):
    """The last layers of both encoders, with the head.

    Attributes:
        interaction_layers: as in :class:`~epic_pl.nn.methods.no_prompts.NoPrompts`; this layer and
            those after it are trained.
        encoder_lr: peak learning rate inside the encoders.
        vectors: train norms and biases alone.
    """

    model = LastLayersModel

    encoder_lr: float = 1e-4
    vectors: bool = False
