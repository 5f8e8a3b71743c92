"""Summary of a module: its encoders, and numbers of trainable and frozen parameters."""

import math
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from rich.table import Column, Table

from epic_pl.data.preprocessing import ImagePreprocessing, TextPreprocessing
from epic_pl.data.pretrained import image_file
from epic_pl.module.config import EncoderConfig
from epic_pl.nn.base import DualEncoder
from epic_pl.nn.encoders import Encoder
from epic_pl.utils.assets.sentence_files import read_sentence_files
from epic_pl.utils.errors import counted


def count_parameters(model: DualEncoder) -> dict[str, tuple[int, int]]:
    """The numbers (trainable, frozen) of parameters in each part of the model."""
    counts = {}
    for name, part in model.named_children():
        trained = sum(p.numel() for p in part.parameters() if p.requires_grad)
        counts[name.replace("_", " ")] = (
            trained,
            sum(p.numel() for p in part.parameters()) - trained,
        )
    return counts


def trainable_share(model: DualEncoder) -> float:
    """Number of trained parameters, head included, divided by that of pretrained ones."""
    pretrained = model.image_encoder.num_parameters + model.text_encoder.num_parameters
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


class ParameterTable(ModelSummary):
    """Prints encoders, numbers of parameters, epochs and steps when a training starts.

    In a Trainer's callbacks it replaces Lightning's own summary.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Print a line of both encoders and the table once."""
        if trainer.is_global_zero:
            image, text = pl_module.encoders.image, pl_module.encoders.text
            rank_zero_info(f"Encoders: {image.name} and {text.name}")
            parameter_table(pl_module.model)

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Print how many epochs and steps follow."""
        steps: float = trainer.num_training_batches / trainer.accumulate_grad_batches
        epochs = trainer.max_epochs or 0
        if trainer.is_global_zero and epochs > 0 and steps < math.inf:
            length = counted(math.ceil(steps), "steps")
            print(f"Training: {counted(epochs, 'epochs')} of {length}", flush=True)


def encoder_line(
    config: EncoderConfig, encoder: Encoder, options: ImagePreprocessing | TextPreprocessing
) -> str:
    """The line of one encoder, with the options of its inputs."""
    if isinstance(options, ImagePreprocessing):
        inputs = f"{options} from {image_file(config.name)}"
    else:
        files = read_sentence_files(config.name, config.revision)
        inputs = f"{options} from {files.file if files.pooling else 'its tokenizer'}"
        inputs += f"; its prompts: {', '.join(files.prompts) or 'none'}"
    size = f"{encoder.num_layers} layers"
    if encoder.problem:
        size, inputs = "features alone", f"{inputs}. {encoder.problem}"
    size += f" of width {encoder.width}, {encoder.num_parameters:,} parameters"
    kind = f"{type(encoder).__name__} of {type(encoder.model).__name__} with {size}"
    return f"Encoder {config.name}: {kind}, pooling {encoder.pooling}; {inputs}"
