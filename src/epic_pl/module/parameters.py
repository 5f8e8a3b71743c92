"""Numbers of trainable and frozen parameters."""

from rich.console import Console
from rich.table import Column, Table
from torch import Tensor

from epic_pl.nn.base import DualEncoder

_PART_NAMES = {"hubs": "interaction hub"}


def count_parameters(model: DualEncoder) -> dict[str, tuple[int, int]]:
    """The numbers (trainable, frozen) of parameters in each part of the model."""
    parts: dict[str, list[Tensor]] = {
        "image encoder": list(model.image_encoder.parameters()),
        "text encoder": list(model.text_encoder.parameters()),
    }
    for name, child in model.named_children():
        if name not in ("image_tower", "text_tower"):
            parts[_PART_NAMES.get(name, name.replace("_", " "))] = list(child.parameters())
    return {
        part: (
            sum(p.numel() for p in tensors if p.requires_grad),
            sum(p.numel() for p in tensors if not p.requires_grad),
        )
        for part, tensors in parts.items()
    }


def trainable_share(model: DualEncoder) -> float:
    """Number of trained parameters, head included, divided by that of pretrained ones."""
    encoders = (model.image_encoder, model.text_encoder)
    pretrained = sum(encoder.num_parameters for encoder in encoders)
    return sum(p.numel() for p in model.parameters() if p.requires_grad) / pretrained


def parameter_table(model: DualEncoder, console: Console | None = None) -> None:
    """Print the parts with their trainable and frozen parameters, and the trainable share."""
    numbers = (Column(name, justify="right") for name in ("trainable", "frozen"))
    table = Table("part", *numbers, title="Parameters", title_justify="left")
    counts = count_parameters(model)
    for part, (trainable, frozen) in counts.items():
        table.add_row(part, f"{trainable:,}", f"{frozen:,}")
    total, frozen = (sum(column) for column in zip(*counts.values(), strict=True))
    table.add_section()
    table.add_row("total", f"{total:,}", f"{frozen:,}")
    console = console or Console()
    console.print(table)
    console.print(f"Trainable share: {trainable_share(model):.2%} of the encoders' parameters.")
