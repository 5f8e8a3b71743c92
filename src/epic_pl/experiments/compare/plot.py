"""Accuracy against cost, a point a method."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from epic_pl.experiments.compare.results import MAJORITY, Row

# nothing to speak of, and a logarithmic axis has no zero
_FLOOR = {"peak_memory_mb": 1.0}
_LABELS = {
    "seconds": "training, seconds",
    "peak_memory_mb": "peak memory while training, MB (less than 1 drawn as 1)",
    "trainable": "trained parameters",
}


def draw(rows: Sequence[Row], path: Path) -> None:
    """Two panels: seconds, and peak memory, or trained parameters where memory is not known."""
    main = rows[0]["metric"]
    known = [row for row in rows if row["metric"] == main and row["mean"] is not None]
    trained = [row for row in known if row["method"] != MAJORITY]
    measured = any((row["peak_memory_mb"] or 0) > 0 for row in trained)
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _panel(left, trained, "seconds")
    _panel(right, trained, "peak_memory_mb" if measured else "trainable")
    left.set_ylabel(f"test {main}, %")
    for row in known:
        if row["method"] == MAJORITY:
            # far below the others it would squeeze them into one line
            figure.suptitle(f"majority class: {100 * row['mean']:.1f}%", fontsize=9, color="grey")
    figure.savefig(path, dpi=150)


def _panel(axes: Axes, trained: Sequence[Row], cost: str) -> None:
    costs = [max(row[cost] or 0, _FLOOR.get(cost, 1e-3)) for row in trained]
    for number, row in enumerate(trained):
        colour = f"C{number % 10}"
        at = (costs[number], 100 * row["mean"])
        axes.errorbar(*at, yerr=100 * (row["std"] or 0), fmt="o", capsize=3, color=colour)
        axes.annotate(
            row["method"],
            at,
            xytext=(5, -13 if _is_below(number, trained, costs) else 6),
            textcoords="offset points",
            fontsize=9,
            color=colour,
        )
    if trained:
        axes.set_xscale("log")
        wide = max(costs) > 200 * min(costs)
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.2, y=0.15)
    axes.set_xlabel(_LABELS[cost])
    axes.grid(alpha=0.3)


def _is_below(number: int, trained: Sequence[Row], costs: Sequence[float]) -> bool:
    """Whether the point that costs most nearly the same lies higher: the label goes below then."""
    others = [other for other in range(len(trained)) if other != number]
    if not others:
        return False
    nearest = min(others, key=lambda other: abs(math.log(costs[other] / costs[number])))
    return bool(trained[nearest]["mean"] > trained[number]["mean"])
