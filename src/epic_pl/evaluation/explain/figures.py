"""Figures of explanations. Shape legend: n prompts, g patches a side, W words, K steps."""

import math
import warnings
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from epic_pl.evaluation.explain.samples import Explanation
from epic_pl.html_page import png

_WIDTH = 11.0  # inches
_COLUMNS = 5  # panels side by side
_PANEL = 2.3  # inches, height of a panel
_LINE = 0.24  # inches, height of a line of text
_LINE_CHARS, _MARGIN_CHARS = 110, 11
_DPI = 120  # of the figure of a whole sample
MISSING_GLYPH = r"Glyph .* missing from"
"""Matplotlib's warning about a character that its font lacks, which is drawn as a box."""

Line = list[tuple[float, str, float]]
"""Column, word and its shade from 0 to 1."""


def draw(explanation: Explanation) -> Figure:
    """All of a sample: patches and words of the last step, and every similarity matrix."""
    lines = _lines(explanation)
    heights = [_height(1 + len(explanation.steps[-1].patches)), _LINE * (len(lines) + 2)]
    if explanation.similarities:
        heights.append(_height(len(explanation.similarities)))
    figure = _figure(sum(heights) + 0.4)
    figure.suptitle(explanation.headline, parse_math=False, fontsize=11)
    parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights)
    _draw_patches(parts[0], explanation, len(explanation.steps) - 1)
    _draw_words(parts[1], lines)
    if explanation.similarities:
        _draw_similarities(parts[2], explanation)
    return figure


def draw_patches(explanation: Explanation, step: int) -> Figure:
    """The picture, and the attention of each prompt on it in a step, counted from 0."""
    figure = _figure(_height(1 + len(explanation.steps[step].patches)))
    _draw_patches(figure, explanation, step)
    return figure


def sample_png(explanation: Explanation) -> bytes:
    """:func:`draw` as PNG."""
    return _png(draw(explanation), _DPI)


def patches_png(explanation: Explanation, step: int) -> bytes:
    """:func:`draw_patches` as PNG."""
    return _png(draw_patches(explanation, step))


def similarities_png(explanation: Explanation) -> bytes:
    """The similarity matrices of all steps as PNG."""
    figure = _figure(_height(len(explanation.similarities)))
    _draw_similarities(figure, explanation)
    return _png(figure)


def _shades(shares: Tensor) -> list[float]:
    """Shares ``(W,)`` relative to the largest one."""
    shaded: list[float] = (shares / shares.max().clamp(min=1e-12)).tolist()
    return shaded


def _png(figure: Figure, dpi: int = 80) -> bytes:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=MISSING_GLYPH)
        return png(figure, dpi)


def _figure(height: float) -> Figure:
    return Figure(figsize=(_WIDTH, height), layout="constrained")


def _height(panels: int) -> float:
    return _PANEL * math.ceil(panels / _COLUMNS)


def _panels(part: Any, count: int) -> list[Any]:
    grid = part.subplots(math.ceil(count / _COLUMNS), _COLUMNS, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    return list(grid.ravel()[:count])


def _draw_patches(part: Any, explanation: Explanation, step: int) -> None:
    maps, picture = explanation.steps[step].patches, explanation.picture
    first, *rest = _panels(part, 1 + len(maps))
    if picture is None:
        first.text(0.5, 0.5, "no picture", ha="center")
        return
    first.imshow(picture)
    first.set_title(f"step {step + 1} of {len(explanation.steps)}", fontsize=9)
    extent = (-0.5, picture.width - 0.5, picture.height - 0.5, -0.5)
    for number, (axes, shares) in enumerate(zip(rest, maps, strict=True), start=1):
        axes.imshow(picture.convert("L"), cmap="gray", alpha=0.6)
        axes.imshow(shares.numpy(), cmap="inferno", alpha=0.6, extent=extent)
        title = f"prompt {number}: {float(shares.sum()):.0%} on patches\nat most {shares.max():.1%}"
        axes.set_title(title, fontsize=9)


def _lines(explanation: Explanation) -> list[Line]:
    """Lines of the text panel."""
    if not explanation.words:
        return [[(0, "no text", 0.0)]]
    lines: list[Line] = []
    for number, shares in enumerate(explanation.steps[-1].words, start=1):
        lines.append([(0, f"prompt {number}", 0.0)])
        column = _MARGIN_CHARS
        for word, shade in zip(explanation.words, _shades(shares), strict=True):
            shown = word[: _LINE_CHARS - _MARGIN_CHARS]
            if column + len(shown) > _LINE_CHARS:
                lines.append([])
                column = _MARGIN_CHARS
            lines[-1].append((column, shown, shade))
            column += len(shown) + 1
    return lines


def _draw_words(part: Any, lines: list[Line]) -> None:
    axes = part.subplots()
    axes.set_axis_off()
    axes.set(xlim=(0, _LINE_CHARS), ylim=(len(lines), -0.5))
    axes.set_title("words by the attention of each text prompt", fontsize=9)
    style = {"family": "monospace", "fontsize": 9, "va": "center", "parse_math": False}
    for row, line in enumerate(lines):
        for column, word, shade in line:
            box = {"facecolor": (1, 0.5, 0, shade), "edgecolor": "none", "pad": 1}
            axes.text(column, row, word, bbox=box, **style)


def _draw_similarities(part: Any, explanation: Explanation) -> None:
    panels = _panels(part, len(explanation.similarities))
    for number, (axes, shares) in enumerate(zip(panels, explanation.similarities, strict=True), 1):
        axes.set_axis_on()
        axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
        axes.set_title(f"similarity after step {number}", fontsize=9)
        axes.set_xlabel("text prompt", fontsize=8)
        axes.set_ylabel("image prompt", fontsize=8)
        ticks = range(len(shares))
        axes.set_xticks(ticks, [each + 1 for each in ticks], fontsize=8)
        axes.set_yticks(ticks, [each + 1 for each in ticks], fontsize=8)
