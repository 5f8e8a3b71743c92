"""Full fine-tuning: both encoders are trained."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.heads import HeadConfig
from epic_pl.nn.methods.no_prompts import NoPrompts
from epic_pl.nn.pair import Pair
from epic_pl.nn.towers import Tower, TrainedTower
from epic_pl.validate import check_positive


@dataclass(frozen=True)
class FineTunedConfig:
    """Options of full fine-tuning.

    Attributes:
        encoder_lr: peak learning rate inside the encoders.
    """

    encoder_lr: float = 2e-5

    def __post_init__(self) -> None:
        check_positive(self, "encoder_lr")


class FineTuned(NoPrompts):
    """The classification head on encoders that are also trained.

    Dropout inside the encoders is active in training, as configured by their libraries.

    Arguments are those of :class:`NoPrompts`; the encoders are thawed here.
    """

    tower = TrainedTower

    def __init__(
        self,
        encoders: Pair[Encoder],
        num_classes: int,
        config: FineTunedConfig,
        head: HeadConfig,
        modality_dropout: float,
        boundary: Pair[int],
    ) -> None:
        super().__init__(encoders, num_classes, config, head, modality_dropout, boundary)
        self.config = config
        self.encoder_lr = config.encoder_lr
        for tower in self.towers:
            # unused parameters get no gradient, for which DDP would wait
            used = _used_parameters(tower)
            self._make_trainable(tower.encoder.thaw(), used)

    def _make_trainable(self, model: nn.Module, used: set[str]) -> None:
        """Choose the trained parameters of a library's module among the names in ``used``."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in used)


@torch.enable_grad()
def _used_parameters(tower: Tower[Any]) -> set[str]:
    """Names, in the library's module, of the parameters that the pooled output depends on.

    They are determined with one input, since a list would depend on the libraries' versions.
    """
    model = tower.encoder.model
    example = tower.encoder.example(1, 2, torch.Generator().manual_seed(0))
    names, parameters = zip(*model.named_parameters(), strict=True)
    model.requires_grad_(True)
    state = tower.extract(example.to(parameters[0].device), None, None)
    output = tower.pool(state).output
    gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    model.requires_grad_(False)
    return {name for name, gradient in zip(names, gradients, strict=True) if gradient is not None}
