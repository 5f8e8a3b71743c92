"""Means over equal cells of an image, and the positions of its patches.

Shape legend: B batch, P patches, n parts, d width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from epic_pl.utils.errors import ConfigError

# prompts learn as much from 8 x 8 cells of a photograph as from 16 x 16 patches, at a quarter of
# the disk (docs/feature_cache.md)
_MAX_SIDE = 8


def segment_means(patches: Tensor, number: int) -> Tensor:
    """Means ``(B, n, d)`` of the cells of a grid that is as square as n allows.

    Cells overlap if the patches cannot be divided evenly among them.

    Args:
        patches: patches ``(B, P, d)`` of a square image, row by row.
        number: number of cells n.

    Raises:
        ConfigError: if the patches do not form a square.
    """
    side = grid_side(patches.shape[1])
    rows = max(divisor for divisor in range(1, math.isqrt(number) + 1) if number % divisor == 0)
    grid = patches.mT.reshape(patches.shape[0], -1, side, side)  # (B, d, side, side)
    return F.adaptive_avg_pool2d(grid, (rows, number // rows)).flatten(2).mT


def merged(tokens: Tensor, num_prefix: int) -> Tensor:
    """Tokens ``(B, M, d)`` whose patches are means of neighbours, at most 8 a side.

    Prefix tokens stay as they are, and so does an image whose patches form no square.
    """
    patches = tokens[:, num_prefix:]
    side = math.isqrt(patches.shape[1])
    if side <= _MAX_SIDE or side**2 != patches.shape[1]:
        return tokens
    # not len(patches), which would be a constant of an exported program
    grid = patches.mT.reshape(patches.shape[0], -1, side, side)  # (B, d, side, side)
    means = F.avg_pool2d(grid, -(-side // _MAX_SIDE), ceil_mode=True)
    return torch.cat([tokens[:, :num_prefix], means.flatten(2).mT], dim=1)


def patch_places(number: int) -> Tensor:
    """Row and column ``(P, 2)`` of the patches of a square image, from -1 to 1.

    Raises:
        ConfigError: if the patches do not form a square.
    """
    side = grid_side(number)
    middles = (2 * torch.arange(side).double() + 1) / side - 1
    return torch.cartesian_prod(middles, middles)


def grid_side(number: int) -> int:
    """Number of patches per row of a square image with ``number`` patches.

    Raises:
        ConfigError: if the patches do not form a square.
    """
    side = math.isqrt(number)
    if side**2 != number:
        raise ConfigError(
            f"{number} patches form no square: take another first_prompt, method or image encoder."
        )
    return side
