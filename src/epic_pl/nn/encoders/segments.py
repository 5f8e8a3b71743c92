"""Means over equal parts of a picture or a text.

Shape legend: B batch, N tokens, n parts, d width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from epic_pl.errors import ConfigError


def segment_means(tokens: Tensor, mask: Tensor | None, number: int) -> Tensor:
    """Means ``(B, n, d)`` of n equal parts; parts overlap where n does not divide the length.

    Args:
        tokens: ``(B, N, d)``, the patches of a square picture row by row, or a text's words.
        mask: ``(B, N)`` bool, True on a text's words; None for a picture, whose parts are the
            cells of a grid that is as square as n allows.
        number: n.

    Raises:
        ConfigError: the patches form no square.
    """
    if mask is None:
        return _cell_means(tokens, number)
    lengths = mask.sum(dim=1)[:, None]  # (B, 1)
    parts = torch.arange(number, device=tokens.device)
    starts = parts * lengths // number  # (B, n)
    stops = ((parts + 1) * lengths + number - 1) // number
    positions = (mask.cumsum(dim=1) - 1)[:, None]  # (B, 1, N)
    inside = (positions >= starts[..., None]) & (positions < stops[..., None]) & mask[:, None]
    weights = inside.to(tokens.dtype)
    return (weights / weights.sum(dim=2, keepdim=True).clamp(min=1)) @ tokens


def _cell_means(patches: Tensor, number: int) -> Tensor:
    side = _side(patches.shape[1])
    rows = max(each for each in range(1, math.isqrt(number) + 1) if number % each == 0)
    grid = patches.mT.reshape(patches.shape[0], -1, side, side)  # (B, d, side, side)
    return F.adaptive_avg_pool2d(grid, (rows, number // rows)).flatten(2).mT


def patch_places(number: int) -> Tensor:
    """Row and column ``(P, 2)`` of the patches of a square image, from -1 to 1.

    Raises:
        ConfigError: the patches form no square.
    """
    side = _side(number)
    middles = (2 * torch.arange(side).double() + 1) / side - 1
    return torch.cartesian_prod(middles, middles)


def _side(number: int) -> int:
    side = math.isqrt(number)
    if side**2 != number:
        raise ConfigError(
            f"first_prompt 'tokens' and the method parts need square images; {number} patches form "
            "none."
        )
    return side
