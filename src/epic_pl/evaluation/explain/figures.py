"""Figures of explanations. Shape legend: n prompts, g patches a side, W words, K steps."""

import math
import warnings
from typing import Any

from matplotlib.figure import Figure

from epic_pl.evaluation.explain.samples import Explanation
from epic_pl.inspection.html_page import png

_COLUMNS = 5  # panels side by side
_PANEL = 2.3  # inches, height of a panel
_LINE_CHARS, _MARGIN_CHARS, _LINE = 110, 11, 0.24  # a line of text; inches, its height
MISSING_GLYPH = r"Glyph .* missing from"
"""Matplotlib's warning about a character that its font lacks, which is drawn as a box."""


def draw_explanation(explanation: Explanation, step: int = -1) -> Figure:
    """Patches and words of a step, and the similarity matrices of all steps."""
    maps, lines = explanation.steps[step].patches, _lines(explanation, step)
    rows = [math.ceil(n / _COLUMNS) for n in (1 + len(maps), len(explanation.similarities))]
    heights = [_PANEL * rows[0], _LINE * (len(lines) + 2), _PANEL * rows[1]]
    figure = Figure(figsize=(11, sum(heights) + 0.4), layout="constrained")
    figure.suptitle(explanation.headline, parse_math=False, fontsize=11)
    used = [height for height in heights if height]
    parts: Any = figure.subfigures(len(used), 1, height_ratios=used)
    _draw_patches(_panels(parts[0], rows[0]), explanation, step)
    _draw_words(parts[1], lines)
    if explanation.similarities:
        _draw_similarities(_panels(parts[2], rows[1]), explanation)
    return figure


def sample_png(explanation: Explanation, step: int = -1) -> bytes:
    """:func:`draw_explanation` as PNG."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=MISSING_GLYPH)
        return png(draw_explanation(explanation, step), dpi=120)


def _panels(part: Any, rows: int) -> list[Any]:
    grid = part.subplots(rows, _COLUMNS, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    return list(grid.ravel())


def _draw_patches(panels: list[Any], explanation: Explanation, step: int) -> None:
    """The image, and the attention of each prompt on it."""
    maps, image = explanation.steps[step].patches, explanation.image
    if image is None:
        panels[0].text(0.5, 0.5, "no image", ha="center")
        return
    panels[0].imshow(image)
    steps = len(explanation.steps)
    panels[0].set_title(f"step {step % steps + 1} of {steps}", fontsize=9)
    extent = (-0.5, image.width - 0.5, image.height - 0.5, -0.5)
    for number, (axes, shares) in enumerate(zip(panels[1:], maps, strict=False), start=1):
        axes.imshow(image.convert("L"), cmap="gray", alpha=0.6)
        axes.imshow(shares.numpy(), cmap="inferno", alpha=0.6, extent=extent)
        title = f"prompt {number}: {float(shares.sum()):.0%} on patches\nat most {shares.max():.1%}"
        axes.set_title(title, fontsize=9)


def _lines(explanation: Explanation, step: int) -> list[list[tuple[float, str, float]]]:
    """Lines of the text panel: column, word and its shade from 0 to 1."""
    if not explanation.words:
        return [[(0, "no text", 0.0)]]
    lines: list[list[tuple[float, str, float]]] = []
    for number, shares in enumerate(explanation.steps[step].words, start=1):
        lines.append([(0, f"prompt {number}", 0.0)])
        column = _MARGIN_CHARS
        shades = (shares / shares.max().clamp(min=1e-12)).tolist()
        for word, shade in zip(explanation.words, shades, strict=True):
            shown = word[: _LINE_CHARS - _MARGIN_CHARS]
            if column + len(shown) > _LINE_CHARS:
                lines.append([])
                column = _MARGIN_CHARS
            lines[-1].append((column, shown, shade))
            column += len(shown) + 1
    return lines


def _draw_words(part: Any, lines: list[list[tuple[float, str, float]]]) -> None:
    axes = part.subplots()
    axes.set_axis_off()
    axes.set(xlim=(0, _LINE_CHARS), ylim=(len(lines), -0.5))
    axes.set_title("words by the attention of each text prompt", fontsize=9)
    style = {"family": "monospace", "fontsize": 9, "va": "center", "parse_math": False}
    for row, line in enumerate(lines):
        for column, word, shade in line:
            box = {"facecolor": (1, 0.5, 0, shade), "edgecolor": "none", "pad": 1}
            axes.text(column, row, word, bbox=box, **style)


def _draw_similarities(panels: list[Any], explanation: Explanation) -> None:
    matrices = explanation.similarities
    first = len(explanation.steps) - len(matrices) + 1
    for step, (axes, shares) in enumerate(zip(panels, matrices, strict=False), first):
        axes.set_axis_on()
        axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_title(f"similarity before step {step}", fontsize=9)
        axes.set_xlabel("part of the text" if step == 1 else "text prompt", fontsize=8)
        axes.set_ylabel("patch" if step == 1 else "image prompt", fontsize=8)
        axes.set(xticks=[], yticks=[])
