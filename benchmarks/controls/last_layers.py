"""Controls of EPIC: the last layers of both encoders are trained, from stored tokens.

`LastLayers` is what prompts must beat: it stores as little as `joint` EPIC, and no layer before
those that it trains runs in a step. `EPICOnLastLayers` is EPIC whose prompts read trained layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.epic import EPIC, EPICModel
from epic_pl.nn.heads import HeadConfig
from epic_pl.nn.methods.no_prompts import NoPrompts, NoPromptsModel
from epic_pl.nn.pair import Pair
from epic_pl.nn.towers import FrozenTower, ReadOnlyTower
from epic_pl.utils.validate import check_positive


class LastLayersTower(FrozenTower):
    """Tokens that enter the first of the layers are frozen; the layers run with gradient."""

    levels = ("tokens",)
    not_stored_because = "It trains the last layers, so their outputs change with every step."
    trains_encoder = True


class LastLayersReadTower(ReadOnlyTower):
    """The same, for prompts that read the layers."""

    levels = ("tokens",)
    not_stored_because = LastLayersTower.not_stored_because
    trains_encoder = True


@torch.enable_grad()
def thaw(towers: Sequence[Any], vectors: bool) -> None:
    """Train what the pooled output depends on after the tokens that enter the first layer.

    Args:
        towers: of both encoders.
        vectors: train norms and biases alone.
    """
    for tower in towers:
        model = tower.encoder.thaw()
        parameters = list(model.parameters())
        example = tower.encoder.example(1, 2, torch.Generator().manual_seed(0))
        tokens = tower.entering(example, None)
        model.requires_grad_(True)
        output = tower.pool(tower.start(tokens, None)).output
        gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            used = gradient is not None and not (vectors and parameter.ndim > 1)
            parameter.requires_grad_(used)


class LastLayersModel(NoPromptsModel):
    """The classification head on encoders whose last layers are trained.

    Arguments are those of :class:`NoPromptsModel`; the layers are thawed here.
    """

    tower = LastLayersTower

    def __init__(
        self, encoders: Pair[Encoder], num_classes: int, method: "LastLayers", head: HeadConfig
    ) -> None:
        super().__init__(encoders, num_classes, method, head)
        self.encoder_lr = method.encoder_lr
        thaw(self.towers, method.vectors)


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
        thaw(self.towers, method.vectors)


@dataclass(frozen=True)
class LastLayers(NoPrompts):
    """The last layers of both encoders, with the head.

    Attributes:
        interaction_layers: as in :class:`~epic_pl.nn.methods.no_prompts.NoPrompts`; this layer and
            those after it are trained.
        encoder_lr: peak learning rate inside the encoders.
        vectors: train norms and biases alone.
    """

    model = LastLayersModel
    space = "prompts.yaml"

    encoder_lr: float = 1e-4
    vectors: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "encoder_lr")


@dataclass(frozen=True)
class EPICOnLastLayers(EPIC):
    """EPIC on trained layers; options as in :class:`~epic_pl.nn.epic.EPIC` and LastLayers."""

    model = EPICOnLastLayersModel

    encoder_lr: float = 1e-4
    vectors: bool = False
