"""AdamW, fused into one kernel where that can be had."""

from typing import Any

import torch
from torch.optim import AdamW, Optimizer

from epic_pl.errors import ConfigError


def build_adamw(
    groups: list[dict[str, Any]], fused: bool | None, *, clipping_refused: bool = False
) -> AdamW:
    """AdamW over parameter groups.

    Args:
        groups: with rates and decays.
        fused: whether one kernel takes the whole step; None where it can be had.
        clipping_refused: whether the trainer clips gradients and will not for a fused optimiser.

    Raises:
        ConfigError: if ``fused`` is True and cannot be had.
    """
    if fused and clipping_refused:
        raise ConfigError(
            "fused is on, but Lightning clips no gradients for a fused optimiser under mixed "
            "precision: leave model.fused empty (null), or set trainer.gradient_clip_val to null, "
            "or trainer.precision to 32-true or bf16-true."
        )
    if fused is False or clipping_refused:
        return _faithful(AdamW(groups))
    missing = _missing_kernel(groups)
    if fused and missing:
        raise ConfigError(
            f"fused is on, but torch has no fused AdamW here ({missing}): leave model.fused empty "
            "(null)."
        )
    return _faithful(AdamW(groups, fused=None if missing else True))


def _missing_kernel(groups: list[dict[str, Any]]) -> str | None:
    """Why there is no fused step for these parameters; torch tells in the first step only."""
    for device, dtype in {(p.device, p.dtype) for group in groups for p in group["params"]}:
        trial = torch.zeros(1, device=device, dtype=dtype, requires_grad=True)
        trial.grad = torch.zeros_like(trial)
        try:
            AdamW([trial], fused=True).step()
        except RuntimeError as error:
            return str(error).splitlines()[0]
    return None


def _faithful(optimizer: AdamW) -> AdamW:
    """Keep the optimiser's own kernel when it takes up the state of one that had another."""
    kernel = {key: optimizer.defaults[key] for key in ("fused", "foreach")}

    def keep(_: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "param_groups": [group | kernel for group in state["param_groups"]]}

    optimizer.register_load_state_dict_pre_hook(keep)
    return optimizer
