"""Which parameters are trained, at which rate, and what share of the model they are."""

from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor

from epic_pl.nn.base import DualEncoder
from epic_pl.nn.encoders.base import Encoder

_PART_NAMES = {"hubs": "interaction hub"}


def parameter_groups(
    model: DualEncoder,
    lr: float,
    prompt_lr: float,
    weight_decay: float,
    head_weight_decay: float | None = None,
) -> list[dict[str, Any]]:
    """AdamW's groups: the head at ``lr``, encoders at their own rate, all else at ``prompt_lr``.

    Norms, biases, temperatures, stand-ins (all of at most one dimension) and prompts get no decay;
    a module names its prompts in ``no_decay``. The maps that read what the encoders say have their
    own decay where ``head_weight_decay`` says so; a module names them in ``head_decay``.
    """
    prompts, maps = _named(model, "no_decay"), _named(model, "head_decay")
    inside = _encoder_prefixes(model)
    rates = {"head": lr, "prompts": prompt_lr, "encoders": model.encoder_lr}
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part = "head" if name.startswith("head.") else "prompts"
        if name.startswith(inside):
            part = "encoders"
        decay = parameter.ndim > 1 and name not in prompts
        key, strength = part, weight_decay
        if not decay:
            key, strength = f"{part}_no_decay", 0.0
        elif name in maps and head_weight_decay is not None:
            key, strength = f"{part}_maps", head_weight_decay
        group = groups.setdefault(
            key,
            {
                "name": key,
                "params": [],
                "lr": rates[part],
                "weight_decay": strength,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def _named(model: DualEncoder, kind: str) -> set[str]:
    """Full names of the tensors that modules list under ``kind``."""
    return {
        f"{name}.{key}" if name else key
        for name, child in model.named_modules()
        for key in getattr(child, kind, ())
    }


def count_parameters(model: DualEncoder) -> dict[str, tuple[int, int]]:
    """(trainable, frozen) numbers of each part of the model."""
    parts: dict[str, list[Tensor]] = {
        "image encoder": list(model.image_encoder.parameters()),
        "text encoder": list(model.text_encoder.parameters()),
    }
    for name, child in model.named_children():
        if name not in ("image_tower", "text_tower"):
            parts[_PART_NAMES.get(name, name.replace("_", " "))] = list(child.parameters())
    own: list[Tensor] = [
        p for name, p in model.named_parameters(recurse=False) if name.startswith("absent_")
    ]
    if own:
        parts["absent-modality vectors"] = own
    return {
        part: (
            sum(p.numel() for p in tensors if p.requires_grad),
            sum(p.numel() for p in tensors if not p.requires_grad),
        )
        for part, tensors in parts.items()
    }


def trainable_share(model: DualEncoder) -> float:
    """Trained parameters, head included, over those that the encoders came with."""
    encoders = (model.image_encoder, model.text_encoder)
    pretrained = sum(encoder.num_parameters for encoder in encoders)
    return sum(p.numel() for p in model.parameters() if p.requires_grad) / pretrained


def _encoder_prefixes(model: DualEncoder) -> tuple[str, ...]:
    return tuple(f"{name}." for name, m in model.named_modules() if isinstance(m, Encoder))


def parameter_table(model: DualEncoder, console: Console | None = None) -> None:
    """Print the parts with their trainable and frozen parameters, and the trainable share."""
    table = Table(title="Parameters", title_justify="left")
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
