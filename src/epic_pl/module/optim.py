"""The optimiser of what is trained, its learning rates step by step, and the weights' average."""

from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.types import OptimizerLRScheduler

from epic_pl.module.adamw import build_adamw
from epic_pl.module.ema import WeightAverage
from epic_pl.module.parameters import parameter_groups, parameter_table
from epic_pl.module.schedule import warmup_cosine
from epic_pl.nn.base import DualEncoder


class Optimisation(L.LightningModule):
    """The optimiser's part of :class:`epic_pl.module.EPICModule`, which gives it its options."""

    model: DualEncoder
    lr: float
    prompt_lr: float
    weight_decay: float
    head_weight_decay: float | None
    warmup: float
    ema_decay: float
    _fused: bool | None = None
    _average: WeightAverage | None = None
    _pending_average: dict[str, Any] | None = None
    _total_steps: float | None = None

    def on_fit_start(self) -> None:
        """Print what is trained and what is frozen."""
        self._average = None  # an earlier fit's, whose averages are the weights by now
        rank_zero_only(parameter_table)(self.model)

    def on_train_start(self) -> None:
        """Now the loaders stand, so the schedule may learn its length.

        Asking earlier (in ``configure_optimizers``) would build the loaders before their state is
        restored, and a resumed run would start its epoch again.
        """
        self._total_steps = float(self.trainer.estimated_stepping_batches)
        for scheduler in self._schedulers():
            for group, base_lr in zip(
                scheduler.optimizer.param_groups, scheduler.base_lrs, strict=True
            ):
                group["lr"] = base_lr * self._lr_factor(scheduler.last_epoch)
        self._start_average()

    def _start_average(self) -> None:
        self._average = WeightAverage(self, self.ema_decay) if self.ema_decay > 0 else None
        if self._average and self._pending_average:
            self._average.load_state_dict(self._pending_average)
        self._pending_average = None

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Lightning's own, then the average's; a checkpoint callback looks before later hooks."""
        super().optimizer_step(*args, **kwargs)
        if self._average:
            self._average.update()

    def on_validation_start(self) -> None:
        """While training, validate the averages."""
        if self._average and self.trainer.state.fn == TrainerFn.FITTING:
            self._average.show()

    def on_validation_end(self) -> None:
        """Train on from the weights themselves."""
        if self._average and self.trainer.state.fn == TrainerFn.FITTING:
            self._average.hide()

    def on_train_end(self) -> None:
        """Leave the averages in the module, for whatever is done with it next."""
        if self._average:
            self._average.show()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, head and prompts at their own rates, under linear warm-up and cosine."""
        groups = parameter_groups(
            self.model, self.lr, self.prompt_lr, self.weight_decay, self.head_weight_decay
        )
        optimizer = build_adamw(
            groups, self._fused, clipping_refused=self._refuses_fused_clipping()
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._lr_factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _refuses_fused_clipping(self) -> bool:
        """Whether Lightning would refuse to clip a fused optimiser's gradients: under AMP."""
        trainer = self._trainer
        return (
            trainer is not None
            and isinstance(trainer.precision_plugin, MixedPrecision)
            and bool(trainer.gradient_clip_val)
        )

    def _lr_factor(self, step: int) -> float:
        if self._total_steps is None:
            return 0.0  # before training starts; on_train_start sets the real one
        warmup_steps = 0
        if self._total_steps != float("inf"):
            warmup_steps = round(self.warmup * self._total_steps)
        return warmup_cosine(step, self._total_steps, warmup_steps)

    def _schedulers(self) -> list[Any]:
        schedulers = self.lr_schedulers()
        if schedulers is None:
            return []
        return schedulers if isinstance(schedulers, list) else [schedulers]
