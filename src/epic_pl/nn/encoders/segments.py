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
    side = math.isqrt(patches.shape[1])
    if side**2 != patches.shape[1]:
        raise ConfigError(
            f"first_prompt 'tokens' needs square pictures; {patches.shape[1]} patches form none."
        )
    grid = patches.mT.reshape(patches.shape[0], -1, side, side)  # (B, d, side, side)
    return F.adaptive_avg_pool2d(grid, _grid(number)).flatten(2).mT


def _grid(number: int) -> tuple[int, int]:
    """Rows and columns, as square as the number allows."""
    rows = max(each for each in range(1, math.isqrt(number) + 1) if number % each == 0)
    return rows, number // rows


def grid_places(number: int) -> Tensor:
    """Row and column ``(n, 2)`` of the n cells of :func:`segment_means`, from -1 to 1."""
    rows, columns = (torch.arange(count).double() for count in _grid(number))
    return torch.cartesian_prod(*((2 * at + 1) / len(at) - 1 for at in (rows, columns)))
