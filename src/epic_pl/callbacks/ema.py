"""An exponential moving average of the trained weights."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from epic_pl.errors import ConfigError


class WeightAverage(Callback):
    """Validates, keeps and tests an exponential moving average of the trained weights.

    After step t, counted from 0, ``average <- b average + (1 - b) weight`` with
    ``b = min(decay, (1 + t) / (10 + t))``, in float32 at least. Checkpoints hold the average as
    ``state_dict``; the weights that training goes on from are in this callback's state. Lightning's
    own ``EMAWeightAveraging`` copies the whole module, frozen encoders included.

    Args:
        decay: 0 is off, 0.999 averages over about 1,000 steps.

    Raises:
        ConfigError: if ``decay`` is not in [0, 1).
    """

    def __init__(self, decay: float = 0.0) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(
                f"ema.decay is {decay}: it must be at least 0 (off) and less than 1, for example "
                "0.999."
            )
        self.decay = decay
        self._steps = 0
        self._average: dict[str, Tensor] = {}
        self._raw: dict[str, Tensor] | None = None
        self._loaded: dict[str, Any] | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget an earlier fit, and refuse checkpoints that would hold the wrong weights.

        Raises:
            ConfigError: with ``save_weights_only``, for which Lightning asks no callback.
        """
        self._steps, self._average, self._raw = 0, {}, None
        if self.decay and any(
            isinstance(each, Checkpoint) and getattr(each, "save_weights_only", False)
            for each in getattr(trainer, "callbacks", [])
        ):
            raise ConfigError(
                "ema.decay goes with whole checkpoints only: set save_weights_only to false."
            )

    @torch.no_grad()
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start from the present weights, or from those of a checkpoint."""
        if not self.decay:
            return
        weights, loaded = _trained(pl_module), self._loaded
        self._loaded = None
        if loaded is not None:
            for name, weight in weights.items():
                weight.copy_(loaded["raw"][name])
            self._steps = loaded["steps"]
        source = weights if loaded is None else loaded["average"]
        self._average = {
            name: _precise(source[name].detach()).to(weight.device)
            for name, weight in weights.items()
        }
        self._seen_step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any, **__: Any
    ) -> None:
        """Take in the weights that an optimiser step has left."""
        if not self._average or trainer.global_step == self._seen_step:
            return
        self._seen_step = trainer.global_step
        kept = min(self.decay, (1 + self._steps) / (10 + self._steps))
        self._steps += 1
        for name, weight in _trained(pl_module).items():
            self._average[name].lerp_(weight.to(self._average[name].dtype), 1 - kept)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """While training, validate the average."""
        self._show(pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Train on from the weights themselves."""
        self._hide(pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the average in the module, for whatever is done with it next."""
        self._show(pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget all, once the last checkpoint is written."""
        self._average, self._raw, self._loaded = {}, None, None

    @torch.no_grad()
    def _show(self, module: L.LightningModule) -> None:
        if self._average and self._raw is None:
            weights = _trained(module)
            self._raw = {name: weight.clone() for name, weight in weights.items()}
            for name, weight in weights.items():
                weight.copy_(self._average[name])

    @torch.no_grad()
    def _hide(self, module: L.LightningModule) -> None:
        if self._raw is not None:
            for name, weight in _trained(module).items():
                weight.copy_(self._raw[name])
            self._raw = None

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the average into the checkpoint's weights, and keep those aside."""
        if not self._average:
            return
        weights = _trained(pl_module) if self._raw is None else self._raw
        checkpoint["weight_average"] = {
            "steps": self._steps,
            "raw": {name: weight.detach().clone() for name, weight in weights.items()},
            "average": {name: average.clone() for name, average in self._average.items()},
        }
        state = checkpoint["state_dict"]
        for name, average in self._average.items():
            state[name] = average.to(state[name])

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep what training goes on from until it starts."""
        wanted = self.decay and trainer.state.fn == TrainerFn.FITTING
        self._loaded = checkpoint.get("weight_average") if wanted else None


def _trained(module: L.LightningModule) -> dict[str, Tensor]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _precise(tensor: Tensor) -> Tensor:
    """A copy in float32 at least: small steps would be rounded away below that."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
