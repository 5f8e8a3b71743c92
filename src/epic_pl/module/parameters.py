"""Summary of a module: its encoders, and numbers of trainable and frozen parameters."""

from collections.abc import Iterator
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from rich.table import Column, Table

from epic_pl.data.preprocessing import ImagePreprocessing, Preprocessing, TextPreprocessing
from epic_pl.data.pretrained import image_file
from epic_pl.module.config import EncoderConfig
from epic_pl.nn.base import DualEncoder
from epic_pl.nn.encoders import Encoder
from epic_pl.utils.assets.sentence_files import read_sentence_files


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
    """Prints the encoders and the numbers of parameters when a training starts.

    In a Trainer's callbacks it replaces Lightning's own summary.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        """Print a line for each encoder and the table once."""
        if trainer.is_global_zero:
            for line in encoder_lines(pl_module):
                rank_zero_info(line)
            parameter_table(pl_module.model)


def encoder_lines(module: Any) -> Iterator[str]:
    """A line for each encoder of a module: what it is, and how its inputs are prepared."""
    given = Preprocessing.find(module.hparams.get("preprocessing")) or (None, None, None)
    yield encoder_line(module.encoders.image, module.model.image_encoder, given[0])
    yield encoder_line(module.encoders.text, module.model.text_encoder, given[1])


def encoder_line(config: EncoderConfig, encoder: Encoder, options: object) -> str:
    """The line of one encoder, with the options of its inputs; None are of another pipeline."""
    inputs = "inputs of another pipeline"
    if isinstance(options, ImagePreprocessing):
        inputs = f"{options} from {image_file(config.name)}"
    elif isinstance(options, TextPreprocessing):
        files = read_sentence_files(config.name, config.revision)
        inputs = f"{options} from {files.file if files.pooling else 'its tokenizer'}"
        inputs += f"; its prompts: {', '.join(files.prompts) or 'none'}"
    size = f"{encoder.num_layers} layers"
    if encoder.problem:
        size, inputs = "features alone", f"{inputs}. {encoder.problem}"
    size += f" of width {encoder.width}, {encoder.num_parameters:,} parameters"
    kind = f"{type(encoder).__name__} of {type(encoder.model).__name__} with {size}"
    return f"Encoder {config.name}: {kind}, pooling {encoder.pooling}; {inputs}"
