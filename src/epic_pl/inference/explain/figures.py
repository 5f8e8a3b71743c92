"""Figures of explanations. Shape legend: n prompts, g patches a side, W words, K steps."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from epic_pl.inference.explain.samples import Explanation, Part
from epic_pl.utils.html_page import HEAT, SHADES, plot_style, shorten, svg

_WIDTH = 6.4  # inches: legible on a phone
_COLUMNS, _PANEL = 3, 2.2  # images in a row; height of an image with its title in inches
_WORDS, _LETTERS = 14, 14  # words in a row, and letters shown of a word
_WORD_HEIGHT, _CELL = 1.1, 0.24  # height in inches of rotated words, and of a row of numbers
_MATRIX = 2.5  # height of a matrix in inches
_SMALL_COLUMNS, _SMALL = 4, 1.8  # parts of a text in a row; height of one in inches
_HEAVY = 0.15  # weight from which a word names a part
_MAX_NUMBERS = 100  # number of cells up to which a matrix shows numbers


@plot_style()
def draw_explanation(explanation: Explanation, step: int = -1, title: bool = True) -> Figure:
    """Draw where parts of the text are found, a step's attention, and the hubs' similarities."""
    of_step, found = explanation.steps[step], explanation.parts
    maps, shares, matrices = of_step.patches, of_step.words, explanation.similarities
    bands = math.ceil(len(explanation.words) / _WORDS)
    rows = [math.ceil((1 + len(maps)) / _COLUMNS), max(bands, 1), math.ceil(len(matrices) / 2)]
    band = _WORD_HEIGHT + _CELL * len(shares) if bands else 2 * _CELL
    heights = [_PANEL * rows[0] if explanation.image else 2 * _CELL, band * rows[1]]
    heights += [_MATRIX * rows[2]] * bool(matrices)
    heights += [_SMALL * math.ceil(len(found) / _SMALL_COLUMNS)] * bool(found)
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
    if found and explanation.image:
        _draw_parts(parts[-1], explanation.image, explanation.words, found)
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
    most = max(100 * float(maps.max()), 1e-9)
    for name, axes, shares in zip(_names(maps), others, maps, strict=False):
        drawn = _draw_heat(axes, image, 100 * shares, most)
        axes.set_title(f"{name}: {shares.sum():.0%} on patches,\nat most {shares.max():.1%}")
    part.colorbar(drawn, ax=panels, label="attention on a patch, %", shrink=0.8)


def _draw_heat(axes: Any, image: Image.Image, shares: Tensor, most: float) -> Any:
    """Draw shares ``(g, g)`` of patches as colours over the pale image."""
    pale = Image.blend(image.convert("L"), Image.new("L", image.size, 255), 0.5)
    axes.imshow(pale, cmap="gray", vmin=0, vmax=255)
    extent = (-0.5, image.width - 0.5, image.height - 0.5, -0.5)
    shown = {"cmap": HEAT, "extent": extent, "vmin": 0, "vmax": most}
    return axes.imshow(shares.numpy(), interpolation="nearest", **shown)


def _draw_parts(part: Any, image: Image.Image, words: list[str], found: Sequence[Part]) -> None:
    """Draw where the image matches each part of the text, named by its heaviest words."""
    part.suptitle("where each part of the text is found", x=0, ha="left", fontsize=9)
    rows = math.ceil(len(found) / _SMALL_COLUMNS)
    panels = part.subplots(rows, _SMALL_COLUMNS, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    for axes, each in zip(panels.flat, found, strict=False):
        heavy = [w for w, weight in zip(words, each.words, strict=True) if weight > _HEAVY]
        _draw_heat(axes, image, each.patches, max(float(each.patches.max()), 1e-9))
        axes.set_title(shorten(" ".join(heavy), 2 * _LETTERS), parse_math=False, fontsize=8)


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
        axes.set(xticks=[], yticks=[], ylabel="image prompt", xlabel="text prompt")
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
