"""The smallest valid input of an encoder.

Shape legend: H, W image height and width in pixels.
"""

from typing import Any

import torch
from torch import Tensor


def blank_input(model: Any) -> Tensor:
    """A black image ``(1, 3, H, W)`` of the model's input size, or token ids.

    Args:
        model: a timm ViT, or a tower or text model of transformers.

    Returns:
        The image in the precision of the weights; for text models ids ``(1, 2)`` int64.
    """
    if hasattr(model, "patch_embed"):  # timm's
        height, width = model.patch_embed.img_size or model.default_cfg["input_size"][1:]
    elif hasattr(model.config, "image_size"):  # CLIP's
        height = width = model.config.image_size
    else:
        return torch.ones(1, 2, dtype=torch.long)
    return torch.zeros(1, 3, height, width, dtype=next(model.parameters()).dtype)
