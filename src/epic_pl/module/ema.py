"""The moving average of the weights that are trained."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from epic_pl.errors import ConfigError


class WeightAverage:
    """An exponential moving average of a module's trained tensors, and a switch between the two.

    After step t, counted from 0, ``average ← b average + (1 - b) weight`` with
    ``b = min(decay, (1 + t) / (10 + t))``, so that the first weights are soon forgotten. The
    average is kept in float32 at least. Frozen tensors and buffers have no part in it.

    Args:
        module: whose trained parameters are averaged, from what they are now.
        decay: between 0 and 1; the average is over about ``1 / (1 - decay)`` steps.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self._weights = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self._average = {n: _precise(p.detach()) for n, p in self._weights.items()}
        self._raw: dict[str, Tensor] | None = None

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights that an optimiser's step has left."""
        kept = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for name, weight in self._weights.items():
            self._average[name].lerp_(weight.to(self._average[name].dtype), 1 - kept)

    @torch.no_grad()
    def show(self) -> None:
        """Put the averages into the module, and the trained weights aside."""
        if self._raw is None:
            self._raw = {name: weight.clone() for name, weight in self._weights.items()}
            for name, weight in self._weights.items():
                weight.copy_(self._average[name])

    @torch.no_grad()
    def hide(self) -> None:
        """Put the trained weights back."""
        if self._raw is not None:
            for name, weight in self._weights.items():
                weight.copy_(self._raw[name])
            self._raw = None

    def averaged(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A module's ``state`` with the averages in place of the trained weights."""
        return {n: self._average[n].to(t) if n in self._average else t for n, t in state.items()}

    def state_dict(self) -> dict[str, Any]:
        """What goes on with it: trained weights, averages and how many steps they are of."""
        raw = self._weights if self._raw is None else self._raw
        return {
            "steps": self.steps,
            "raw": {name: tensor.detach().clone() for name, tensor in raw.items()},
            "average": {name: tensor.clone() for name, tensor in self._average.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave; the module has its trained weights already."""
        self.steps = state["steps"]
        for name, average in self._average.items():
            average.copy_(state["average"][name])


def check_decay(decay: float) -> None:
    """Refuse what is no decay.

    Raises:
        ConfigError: if it is not from 0, which is off, to less than 1, which never moves.
    """
    if not 0 <= decay < 1:
        raise ConfigError(
            f"ema_decay is {decay}: it must be at least 0 (off) and less than 1, 0.999 for example."
        )


def _precise(tensor: Tensor) -> Tensor:
    """A copy in float32 at least: small steps would be rounded away below that."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
