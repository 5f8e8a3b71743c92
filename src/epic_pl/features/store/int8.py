"""Quantisation to int8 with one symmetric float16 scale for each vector along the last axis.

So each token, layer and head has its own scale.
"""

import torch
from torch import Tensor

SCALE = ".scale"
"""Behind a field's name, the name of its scales."""


def quantize(values: Tensor) -> tuple[Tensor, Tensor]:
    """Convert to int8 numbers ``(..., d)`` and scales ``(...)``; NaN or inf make a scale so."""
    values = values.float()
    largest = values.abs().amax(-1)
    scale = (largest / 127).half()
    # round the scale up to the next float16, so that the largest number is never clipped
    scale = (scale.view(torch.int16) + (scale.float() * 127 < largest)).view(torch.float16)
    steps = values / scale.float().clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(-1)
    return steps.round().clamp(-127, 127).to(torch.int8), scale


def dequantize(numbers: Tensor, scale: Tensor) -> Tensor:
    """The values ``(..., d)`` in float32."""
    # cast first, since torch's product of two types is six times slower
    return numbers.float().mul_(scale.float().unsqueeze(-1))
