"""Attention is drawn where it looked."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from epic_pl.evaluation.explain.figures import draw
from epic_pl.evaluation.explain.samples import Explanation, Step, _on_patches
from epic_pl.nn.recording import Attention


@pytest.mark.parametrize(("row", "column"), [(0, 3), (3, 0), (1, 2)])
def test_the_brightest_spot_of_the_drawing_is_the_patch_with_all_attention(row, column):
    image = torch.arange(16).view(4, 4)  # as an image encoder cuts it: row by row
    tokens = torch.zeros(1, 2, 3 + 16)
    tokens[0, 1, 3 + image[row, column]] = 1
    maps = _on_patches(Attention(tokens, torch.zeros(1, 2, 2)), prefix=3)
    assert maps.shape == (2, 4, 4)
    assert maps[1].nonzero().tolist() == [[row, column]]

    black, steps = Image.new("RGB", (80, 80)), [Step(maps[1:], torch.zeros(1, 0))]
    figure = draw(Explanation("a", black, [], [], None, None, steps, []), 0)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3].sum(axis=-1)
    axes = figure.axes[1]
    centres = [axes.transData.transform((20 * x + 9.5, 20 * y + 9.5)) for y, x in np.ndindex(4, 4)]
    # pixels count from the top, display coordinates from the bottom
    bright = [drawn[round(len(drawn) - 1 - y), round(x)] for x, y in centres]
    assert divmod(int(np.argmax(bright)), 4) == (row, column)
