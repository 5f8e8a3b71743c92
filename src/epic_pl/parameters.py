"""Which parameters are trained, at which rate, and what share of the model they are."""

from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from epic_pl.nn.encoders.base import Encoder
from epic_pl.nn.epic import EPIC
from epic_pl.nn.prompts import TemporalPrompts


def parameter_groups(
    model: nn.Module, lr: float, prompt_lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """AdamW's groups: the head at ``lr``, everything else that is trained at ``prompt_lr``.

    Norms, biases, temperatures, stand-ins (all of at most one dimension) and prompts get no decay.
    """
    prompts = {
        f"{name}.{key}" if name else key
        for name, child in model.named_modules()
        if isinstance(child, TemporalPrompts)
        for key in ("image", "text")
    }
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "head" if name.startswith("head.") else "prompts"
        decay = parameter.ndim > 1 and name not in prompts
        key = part if decay else f"{part}_no_decay"
        group = groups.setdefault(
            key,
            {
                "name": key,
                "params": [],
                "lr": lr if part == "head" else prompt_lr,
                "weight_decay": weight_decay if decay else 0.0,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def count_parameters(model: EPIC) -> dict[str, tuple[int, int]]:
    """(trainable, frozen) numbers of each part of the model."""
    parts: dict[str, list[Tensor]] = {
        "image encoder": list(model.image_encoder.parameters()),
        "text encoder": list(model.text_encoder.parameters()),
        "prompts": list(model.prompts.parameters()),
        "interaction hub": list(model.hubs.parameters()),
        "absent-modality vectors": [model.absent_image, model.absent_text],
        "head": list(model.head.parameters()),
    }
    return {
        part: (
            sum(p.numel() for p in tensors if p.requires_grad),
            sum(p.numel() for p in tensors if not p.requires_grad),
        )
        for part, tensors in parts.items()
    }


def trainable_share(model: EPIC) -> float:
    """Trained parameters, head included, over the frozen encoders' parameters."""
    frozen = sum(
        p.numel() for m in model.modules() if isinstance(m, Encoder) for p in m.parameters()
    )
    return sum(p.numel() for p in model.parameters() if p.requires_grad) / frozen


def parameter_table(model: EPIC, console: Console | None = None) -> None:
    """Print the parts with their trainable and frozen parameters, and the trainable share."""
    table = Table(title="EPIC parameters", title_justify="left")
    for column in ("part", "trainable", "frozen"):
        table.add_column(column, justify="left" if column == "part" else "right")
    counts = count_parameters(model)
    for part, (trainable, frozen) in counts.items():
        table.add_row(part, f"{trainable:,}", f"{frozen:,}")
    total, frozen = (sum(column) for column in zip(*counts.values(), strict=True))
    table.add_section()
    table.add_row("total", f"{total:,}", f"{frozen:,}")
    console = console or Console()
    console.print(table)
    console.print(f"Trainable share: {trainable_share(model):.2%} of the encoders' parameters.")
