"""Tracing of a trained model by ``torch.export``, for its translation to ONNX.

Shape legend: B batch, S text tokens, H, W image height and width, C classes.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from epic_pl.inference.description import INPUTS
from epic_pl.nn.base import DualEncoder
from epic_pl.utils.errors import ConfigError, raised_as
from epic_pl.utils.types import Batch

# B and S of the traced inputs; torch would treat sizes 0 and 1 as constants
_ROWS, _TOKENS = 2, 5


class Probabilities(nn.Module):
    """A model from plain tensors to calibrated probabilities.

    Args:
        model: model in evaluation mode and float32.
        postprocessor: module that maps logits ``(B, C)`` to probabilities.
    """

    def __init__(self, model: DualEncoder, postprocessor: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.postprocessor = postprocessor

    def forward(self, *inputs: Tensor) -> Tensor:
        """Probabilities ``(B, C)`` float32 of :data:`~epic_pl.inference.description.INPUTS`.

        ``pixel_values (B, 3, H, W)`` float32; ``input_ids`` and ``attention_mask (B, S)`` int64;
        ``image_present`` and ``text_present (B,)`` bool; ``columns (B, F)`` float32, if any.
        """
        # without columns there is no input of them
        batch = cast(Batch, dict(zip((*INPUTS, "columns"), inputs, strict=False)))
        return cast(Tensor, self.postprocessor(self.model(batch).logits))


def export_program(module: Probabilities) -> ExportedProgram:
    """Export a model on the CPU for images of its encoder's size, any B, and any S it supports.

    Raises:
        ConfigError: if torch cannot trace the method or an encoder.
    """
    model = module.eval().model
    inputs = random_inputs(model, _ROWS, _TOKENS)
    rows, rows_and_tokens = {0: Dim.DYNAMIC}, {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    # in the order of INPUTS
    shapes = (rows, rows_and_tokens, rows_and_tokens, rows, rows, rows)[: len(inputs)]
    encoders = " and ".join(type(tower.encoder.model).__name__ for tower in model.towers)
    problem = f"A {type(model).__name__} on {encoders} cannot be exported"
    way_out = "Use EPICModule.load_from_checkpoint, or see docs/export.md."
    with raised_as(ConfigError, problem, way_out), torch.no_grad():
        program = torch.export.export(module, inputs, dynamic_shapes=(shapes,), strict=False)
    for part in program.graph_module.modules():
        if isinstance(part, GraphModule):
            for node in part.graph.nodes:
                node.meta.pop("stack_trace", None)  # it has file paths of this machine
    return program


def random_inputs(model: DualEncoder, rows: int, tokens: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Random inputs in the order of ``INPUTS``.

    Half of the last text is padding; the second row has no image, the third no text.
    """
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(rows, tokens, dtype=torch.long)
    mask[-1, (tokens + 1) // 2 :] = 0
    row = torch.arange(rows)
    image, text = (tower.encoder.example(rows, tokens, generator) for tower in model.towers)
    given = image, text, mask, row != 1, row != 2
    count = model.stacks[0].head.columns
    return (*given, torch.rand(rows, count, generator=generator)) if count else given
