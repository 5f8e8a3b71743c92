"""A control of EPIC: the last layers of both encoders are trained, from the same stored tokens.

Prompts must beat it: it reads the store of `joint` EPIC, and no layer before it runs in a step.
"""

from dataclasses import dataclass

import torch

from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.heads import HeadConfig
from epic_pl.nn.methods.no_prompts import NoPrompts, NoPromptsModel
from epic_pl.nn.pair import Pair
from epic_pl.nn.towers import FrozenTower
from epic_pl.utils.validate import check_positive


class LastLayersTower(FrozenTower):
    """Tokens that enter the first of the layers are frozen; the layers run with gradient."""

    levels = ("tokens",)
    not_stored_because = "It trains the last layers, so their outputs change with every step."
    trains_encoder = True


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
        for tower in self.towers:
            for parameter in _parameters(tower):
                parameter.requires_grad_()


@torch.enable_grad()
def _parameters(tower: LastLayersTower) -> list[torch.nn.Parameter]:
    """Those that the pooled output depends on after the tokens that enter the first layer."""
    model = tower.encoder.thaw()
    parameters = list(model.parameters())
    example = tower.encoder.example(1, 2, torch.Generator().manual_seed(0))
    tokens = tower.entering(example, None)
    model.requires_grad_(True)
    output = tower.pool(tower.start(tokens, None)).output
    gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    model.requires_grad_(False)
    return [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]


@dataclass(frozen=True)
class LastLayers(NoPrompts):
    """The last layers of both encoders, with the head.

    Attributes:
        interaction_layers: as in :class:`~epic_pl.nn.methods.no_prompts.NoPrompts`; this layer and
            those after it are trained.
        encoder_lr: peak learning rate inside the encoders.
    """

    model = LastLayersModel
    space = "prompts.yaml"

    encoder_lr: float = 1e-4

    def __post_init__(self) -> None:
        check_positive(self, "encoder_lr")
