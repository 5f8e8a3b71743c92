"""A trained model as one program of ``torch.export``, which plain torch runs.

Shape legend: B batch, S text tokens, H, W picture height and width, C classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from epic_pl.errors import ConfigError
from epic_pl.module.postprocess import Postprocessor
from epic_pl.nn.base import DualEncoder
from epic_pl.nn.towers import JointTower
from epic_pl.types import Batch

INPUTS = ("pixel_values", "input_ids", "attention_mask", "image_present", "text_present")
"""What an exported program takes, in this order."""
# of the inputs that are traced; what is 0 or 1 in them would stay so for ever
_ROWS, _TOKENS = 2, 5
_ANY = Dim.DYNAMIC


class Classifier(nn.Module):
    """A method's model from plain tensors to the probabilities that prediction gives.

    Args:
        model: in evaluation mode, float32.
        postprocessor: from logits to probabilities.
    """

    def __init__(self, model: DualEncoder, postprocessor: Postprocessor) -> None:
        super().__init__()
        self.model = model
        self.postprocessor = postprocessor

    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_present: Tensor,
        text_present: Tensor,
    ) -> Tensor:
        """Probabilities ``(B, C)`` float32.

        ``pixel_values (B, 3, H, W)`` float32; ``input_ids`` and ``attention_mask (B, S)`` int64;
        ``image_present`` and ``text_present (B,)`` bool.
        """
        batch = Batch(
            pixel_values=pixel_values,
            input_ids=input_ids,
            attention_mask=attention_mask,
            image_present=image_present,
            text_present=text_present,
        )
        probabilities: Tensor = self.postprocessor(self.model(batch))
        return probabilities


def export_program(classifier: Classifier, size: tuple[int, int]) -> ExportedProgram:
    """The classifier as a program for any B and any S that its text encoder takes.

    Args:
        classifier: on the CPU.
        size: H and W of its pictures, pixels.

    Raises:
        ConfigError: if torch cannot trace the method or an encoder.
    """
    classifier = classifier.eval()
    inputs = random_inputs(classifier, size, _ROWS, _TOKENS)
    texts = ("input_ids", "attention_mask")
    shapes = {name: {0: _ANY, 1: _ANY} if name in texts else {0: _ANY} for name in INPUTS}
    try:
        with torch.no_grad(), _any_length(classifier.model):
            program = torch.export.export(classifier, inputs, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # whatever a tracer meets in somebody's model
        model = classifier.model
        encoders = " and ".join(
            type(encoder.model).__name__ for encoder in (model.image_encoder, model.text_encoder)
        )
        raise ConfigError(
            f"A {type(model).__name__} on {encoders} cannot be exported: torch.export says "
            f"{_first_line(error)} docs/export.md lists what can; the others run in Python, with "
            "EPICModule.load_from_checkpoint."
        ) from error
    _forget_source(program)
    return program


def random_inputs(
    classifier: Classifier, size: tuple[int, int], rows: int, tokens: int, seed: int = 0
) -> tuple[Tensor, ...]:
    """Inputs in the order of :data:`INPUTS`, for B rows of S tokens.

    The last row's text is padded by half; the second row has no picture, the third no text.
    """
    generator = torch.Generator().manual_seed(seed)
    text_model: Any = classifier.model.text_encoder.model
    vocabulary = text_model.config.vocab_size
    mask = torch.ones(rows, tokens, dtype=torch.long)
    mask[-1, (tokens + 1) // 2 :] = 0
    row = torch.arange(rows)
    return (
        torch.randn(rows, 3, *size, generator=generator),
        torch.randint(vocabulary, (rows, tokens), generator=generator),
        mask,
        row != 1,
        row != 2,
    )


@contextmanager
def _any_length(model: DualEncoder) -> Iterator[None]:
    """Have the text's last layer run in whole, while a model is traced.

    Without its first token a text of two has one, whose size a tracer takes for a constant.
    """
    tower = model.text_tower
    if not isinstance(tower, JointTower):
        yield
        return
    before = tower.trims_last_layer
    tower.trims_last_layer = False
    try:
        yield
    finally:
        tower.trims_last_layer = before


def _forget_source(program: ExportedProgram) -> None:
    """Leave out which lines of which files an operation came from: paths of this machine."""
    for module in program.graph_module.modules():
        if isinstance(module, GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)


def _first_line(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0].rstrip(".") or "nothing"
    return f"{type(error).__name__}: {line}."
