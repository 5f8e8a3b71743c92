"""Controls of EPIC: the last layers of both encoders are trained, from stored tokens.

`LastLayers` is what prompts must beat: it stores as little as `joint` EPIC, and no layer before
those that it trains runs in a step. `EPICOnLastLayers` is EPIC whose prompts read trained layers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.epic import EPIC, EPICModel
from epic_pl.nn.heads import HeadConfig
from epic_pl.nn.methods.fine_tuned import FineTunedModel, FullFineTuning, used_parameters
from epic_pl.nn.pair import Pair
from epic_pl.nn.towers import FrozenTower, ReadOnlyTower


class LastLayersTower(FrozenTower):
    """Tokens that enter the first of the layers are frozen; the layers run with gradient."""

    levels = ("tokens",)
    not_stored_because = "It trains the last layers, so their outputs change with every step."
    trains_encoder = True

    @torch.no_grad()
    def entering(self, inputs: Tensor, mask: Tensor | None, layer: int | None = None) -> Tensor:
        """The frozen tokens ``(B, N, d)``, so that no earlier layer counts as used."""
        return super().entering(inputs, mask, layer)


class LastLayersReadTower(LastLayersTower, ReadOnlyTower):
    """The same, for prompts that read the layers."""


def thaw(model: nn.Module, used: set[str], vectors: bool) -> None:
    """Train the parameters ``used``, or of these norms and biases alone (``vectors``)."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in used and not (vectors and parameter.ndim > 1))


class LastLayersModel(FineTunedModel):
    """The classification head on encoders whose last layers are trained."""

    tower = LastLayersTower

    def _make_trainable(self, model: nn.Module, used: set[str]) -> None:
        thaw(model, used, self.method.vectors)


class EPICOnLastLayersModel(EPICModel):
    """EPIC whose interaction layers are trained, also where the tokens pass through them."""

    def __init__(
        self,
        encoders: Pair[Encoder],
        num_classes: int,
        method: "EPICOnLastLayers",
        head: HeadConfig,
    ) -> None:
        super().__init__(encoders, num_classes, method, head)
        self.encoder_lr = method.encoder_lr
        self.image_tower, self.text_tower = (
            LastLayersReadTower(tower.encoder, tower.layers, tower.keeps_tokens)
            for tower in self.towers
        )
        for tower in self.towers:
            used = used_parameters(tower)
            thaw(tower.encoder.thaw(), used, method.vectors)


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


@dataclass(frozen=True)
class EPICOnLastLayers(EPIC):
    """EPIC on trained layers; options as in :class:`~epic_pl.nn.epic.EPIC` and LastLayers."""

    model = EPICOnLastLayersModel

    encoder_lr: float = 1e-4
    vectors: bool = False
