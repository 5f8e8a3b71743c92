"""Figures of explanations. Shape legend: n prompts, g patches a side, W words, K steps."""

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from epic_pl.inference.explain.samples import Explanation
from epic_pl.utils.html_page import HEAT, SHADES, plot_style, shorten, svg

_WIDTH = 6.4  # inches: legible on a phone
_COLUMNS, _PANEL = 3, 2.2  # images in a row; height of an image with its title in inches
_WORDS, _LETTERS = 14, 14  # words in a row, and letters shown of a word
_WORD_HEIGHT, _CELL = 1.1, 0.24  # height in inches of rotated words, and of a row of numbers
_MATRIX = 2.5  # height of a matrix in inches
_MAX_NUMBERS = 100  # number of cells up to which a matrix shows numbers


@plot_style()
def draw_explanation(explanation: Explanation, step: int = -1, title: bool = True) -> Figure:
    """Draw patches and words of a step, and the similarity matrices of all steps."""
    of_step = explanation.steps[step]
    maps, shares, matrices = of_step.patches, of_step.words, explanation.similarities
    bands = math.ceil(len(explanation.words) / _WORDS)
    rows = [math.ceil((1 + len(maps)) / _COLUMNS), max(bands, 1), math.ceil(len(matrices) / 2)]
    band = _WORD_HEIGHT + _CELL * len(shares) if bands else 2 * _CELL
    heights = [_PANEL * rows[0] if explanation.image else 2 * _CELL, band * rows[1]]
    heights += [_MATRIX * rows[2]] * bool(matrices)
    figure = Figure(figsize=(_WIDTH, sum(heights) + 0.3))
    if title:
        figure.suptitle(explanation.headline, parse_math=False, wrap=True)
    parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights)
    if explanation.image is None:
        parts[0].text(0, 0.5, "no image")
    else:
        _draw_patches(parts[0], rows[0], explanation.image, maps)
    if explanation.words:
        _draw_words(parts[1], rows[1], explanation.words, shares)
    else:
        parts[1].text(0, 0.5, "no text")
    if matrices:
        first = len(explanation.steps) - len(matrices) + 1
        _draw_similarities(parts[2], rows[2], dict(enumerate(matrices, first)))
    return figure


def _names(shares: Tensor) -> list[str]:
    return [f"prompt {number}" for number in range(1, 1 + len(shares))]


def sample_svg(explanation: Explanation, step: int = -1) -> bytes:
    """An SVG of :func:`draw_explanation` for a page, without the headline."""
    return svg(draw_explanation(explanation, step, title=False))


def _draw_patches(part: Any, rows: int, image: Image.Image, maps: Tensor) -> None:
    """Draw the image with the attention of each prompt on it."""
    panels = part.subplots(rows, _COLUMNS, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    first, *others = panels.flat
    first.imshow(image)
    first.set_title("image")
    pale = Image.blend(image.convert("L"), Image.new("L", image.size, 255), 0.5)
    extent = (-0.5, image.width - 0.5, image.height - 0.5, -0.5)
    most = max(100 * float(maps.max()), 1e-9)
    for name, axes, shares in zip(_names(maps), others, maps, strict=False):
        axes.imshow(pale, cmap="gray", vmin=0, vmax=255)
        shown = {"cmap": HEAT, "extent": extent, "vmin": 0, "vmax": most}
        drawn = axes.imshow(100 * shares.numpy(), interpolation="nearest", **shown)
        axes.set_title(f"{name}: {shares.sum():.0%} on patches,\nat most {shares.max():.1%}")
    part.colorbar(drawn, ax=panels, label="attention on a patch, %", shrink=0.8)


def _draw_words(part: Any, rows: int, words: list[str], shares: Tensor) -> None:
    """Draw the attention of each text prompt on each word, in percent, in reading order."""
    most = max(100 * float(shares.max()), 1e-9)
    part.suptitle("attention of each text prompt on each word, %", x=0, ha="left", fontsize=9)
    for row, axes in enumerate(part.subplots(rows, 1, squeeze=False).flat):
        chosen = slice(row * _WORDS, (row + 1) * _WORDS)
        _draw_matrix(axes, 100 * shares[:, chosen], most, ".0f")
        shown = [shorten(word, _LETTERS) for word in words[chosen]]
        axes.set_xticks(range(len(shown)), shown, rotation=45, ha="left", parse_math=False)
        axes.set_yticks(range(len(shares)), _names(shares))
        axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
        axes.set_xlim(-0.5, max(min(len(words), _WORDS), 7) - 0.5)


def _draw_similarities(part: Any, rows: int, matrices: dict[int, Tensor]) -> None:
    panels = part.subplots(rows, 2, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for axes, (step, shares) in zip(panels.flat, matrices.items(), strict=False):
        axes.set_axis_on()
        drawn = _draw_matrix(axes, shares, 1, ".2f")
        axes.set_title(f"similarity before step {step}")
        # before the first step there are no prompts yet
        names = ("patch", "part of the text") if step == 1 else ("image prompt", "text prompt")
        axes.set(xticks=[], yticks=[], ylabel=names[0], xlabel=names[1])
    part.colorbar(drawn, ax=panels, label="share of each row", shrink=0.8)


def _draw_matrix(axes: Any, values: Tensor, most: float, form: str) -> Any:
    """Draw a matrix as shades, with numbers if it is small."""
    grid = {"cmap": SHADES, "aspect": "auto", "interpolation": "nearest"}
    drawn = axes.imshow(values.numpy(), vmin=0, vmax=most, **grid)
    axes.spines[:].set_visible(False)
    for row, column in np.ndindex(*values.shape) if values.numel() <= _MAX_NUMBERS else ():
        value = float(values[row, column])
        ink = "white" if value > 0.7 * most else "black"
        style = {"ha": "center", "va": "center", "fontsize": 8}
        axes.text(column, row, format(value, form), color=ink, **style)
    return drawn
