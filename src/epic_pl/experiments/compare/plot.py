"""Plot of a comparison: accuracy against cost, one point a method."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from epic_pl.experiments.compare.results import MAJORITY, Row

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
        if row["method"] == MAJORITY:  # a title: as a point it would squeeze the others together
            figure.suptitle(f"majority class: {100 * row['mean']:.1f}%", fontsize=9, color="grey")
    figure.savefig(path, dpi=150)


def _panel(axes: Axes, trained: Sequence[Row], cost: str) -> None:
    # a logarithmic axis has no zero
    floor = 1.0 if cost == "peak_memory_mb" else 1e-3
    costs = [max(row[cost] or 0, floor) for row in trained]
    order = sorted(range(len(trained)), key=costs.__getitem__)
    for number, row in enumerate(trained):
        colour, at = f"C{number % 10}", (costs[number], 100 * row["mean"])
        axes.errorbar(*at, yerr=100 * (row["std"] or 0), fmt="o", capsize=3, color=colour)
        axes.annotate(
            row["method"],
            at,
            # neighbours in cost have their labels above and below in turn
            xytext=(5, -13 if order.index(number) % 2 else 6),
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
