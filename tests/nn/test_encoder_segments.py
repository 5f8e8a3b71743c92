import pytest
import torch

from epic_pl.nn.encoders.segments import patch_places, segment_means
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
