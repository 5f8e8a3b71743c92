"""The optimiser and its learning rate schedule."""

import math
from typing import Any

from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from epic_pl.module.config import OptimConfig
from epic_pl.nn.base import DualEncoder
from epic_pl.nn.encoders.base import Encoder

# a head on this many features has the learning rate optim.lr
_FEATURES = 1000
_FEWEST = 50  # features of an expert of columns by which its rate is scaled


def build_optimizer(model: DualEncoder, config: OptimConfig) -> AdamW:
    """AdamW over the trained parameters of ``model``."""
    # not fused: Lightning clips no gradients of a fused optimiser in mixed precision
    return AdamW(parameter_groups(model, config))


def parameter_groups(model: DualEncoder, config: OptimConfig) -> list[dict[str, Any]]:
    """Parameter groups with learning rates and weight decay.

    The head on D features has learning rate ``lr * 1000 / D``, and an expert of columns that of its
    own features, at least 50. Weights inside the encoders have the
    method's ``encoder_lr``, all others ``prompt_lr``. A step of Adam changes the logits by up to D
    learning rates, so this scaling lets heads of all widths converge in equally many steps. The
    readout in *Tensor Programs V* (arXiv 2203.03466) is scaled in the same way.

    Parameters of at most one dimension (norms, biases, temperatures, missing-modality embeddings)
    and prompts have no weight decay; a module lists its prompts in ``no_decay``.
    """
    groups: dict[str, dict[str, Any]] = {}
    for number, stack in enumerate(model.stacks):
        suffix = f"_{number}" if number else ""  # of stacked members; loggers need different names
        prompts = {
            f"{name}.{key}" if name else key
            for name, child in stack.named_modules()
            for key in getattr(child, "no_decay", ())
        }
        encoders = tuple(f"{name}." for name, m in stack.named_modules() if isinstance(m, Encoder))
        rates = {
            "head": config.lr * _FEATURES / stack.head.num_features,
            "columns": config.lr * _FEATURES / max(stack.head.columns, _FEWEST),
            "prompts": config.prompt_lr,
            "encoders": stack.encoder_lr,
        }
        for name, parameter in stack.named_parameters():
            if not parameter.requires_grad:
                continue
            part = "head" if name.startswith("head.") else "prompts"
            part = "columns" if name.startswith("head.experts.columns.") else part
            if name.startswith(encoders):
                part = "encoders"
            decay = parameter.ndim > 1 + stack.stacked and name not in prompts
            key = f"{part}{'' if decay else '_no_decay'}{suffix}"
            group: dict[str, Any] = {
                "name": key,
                "params": [],
                "lr": rates[part],
                "weight_decay": config.weight_decay if decay else 0.0,
            }
            groups.setdefault(key, group)["params"].append(parameter)
    return list(groups.values())


def set_rates(schedule: LambdaLR) -> None:
    """Set the learning rates of a schedule's current step."""
    groups, rates = schedule.optimizer.param_groups, schedule.base_lrs
    for group, rate, factor in zip(groups, rates, schedule.lr_lambdas, strict=True):
        group["lr"] = rate * factor(schedule.last_epoch)


def warmup_cosine(step: int, total_steps: float, warmup: float) -> float:
    """Factor of the base learning rate: linear from near 0 to 1, then a half cosine to 0.

    Args:
        step: optimiser steps taken so far.
        total_steps: number of steps of the whole training; if infinite, the factor is 1.
        warmup: share of all steps in the linear part.
    """
    if math.isinf(total_steps):
        return 1.0
    warmup_steps = round(warmup * total_steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
