"""int8 with one symmetric float16 scale for each vector along the last axis.

So each token, layer and head has a scale of its own.
"""

import torch
from torch import Tensor

SCALE = ".scale"
"""Behind a field's name, the name of its scales."""


def quantize(values: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers ``(..., d)`` int8 and scales ``(...)``; not finite where a value is not."""
    values = values.float()
    largest = values.abs().amax(-1)
    scale = (largest / 127).half()
    # rounded up to the next float16, so that the largest number is never clipped
    scale = (scale.view(torch.int16) + (scale.float() * 127 < largest)).view(torch.float16)
    steps = values / scale.float().clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(-1)
    return steps.round().clamp(-127, 127).to(torch.int8), scale


def dequantize(numbers: Tensor, scale: Tensor) -> Tensor:
    """The values in float32."""
    # two steps: torch's product of two types is six times slower than cast and product
    return numbers.float().mul_(scale.float().unsqueeze(-1))
