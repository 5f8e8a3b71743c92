import pytest
import torch

from epic_pl.nn.encoders.segments import merged, patch_places, segment_means
from epic_pl.utils.errors import ConfigError


@pytest.mark.parametrize(
    ("number", "cells"),
    [
        (4, [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]),
        (2, [[0, 1, 4, 5, 8, 9, 12, 13], [2, 3, 6, 7, 10, 11, 14, 15]]),
        # three columns of four patches share the middle ones
        (3, [[row * 4 + at for row in range(4) for at in (k, k + 1)] for k in range(3)]),
    ],
)
def test_parts_of_an_image_are_cells_of_a_grid(number, cells):
    patches = torch.randn(2, 16, 3)
    expected = torch.stack([patches[:, each].mean(dim=1) for each in cells], dim=1)
    torch.testing.assert_close(segment_means(patches, number), expected)


def test_patches_must_form_a_square():
    with pytest.raises(ConfigError, match="square"):
        segment_means(torch.randn(1, 12, 3), 4)
    with pytest.raises(ConfigError, match="square"):
        patch_places(12)


@pytest.mark.parametrize(
    ("side", "cells", "factor"), [(16, 8, 2), (14, 7, 2), (9, 5, 2), (37, 8, 5)]
)
def test_merged_patches_are_means_of_neighbours(side, cells, factor):
    torch.manual_seed(0)
    tokens = torch.randn(2, 3 + side**2, 4)
    found = merged(tokens, 3)
    assert torch.equal(found[:, :3], tokens[:, :3])
    grid = tokens[:, 3:].view(2, side, side, 4)
    steps = [slice(factor * i, factor * i + factor) for i in range(cells)]
    expected = [grid[:, rows, columns].mean((1, 2)) for rows in steps for columns in steps]
    torch.testing.assert_close(found[:, 3:], torch.stack(expected, 1))


def test_few_patches_and_those_of_no_square_stay():
    for number in (64, 65, 90):
        tokens = torch.randn(1, 1 + number, 4)
        assert merged(tokens, 1) is tokens
