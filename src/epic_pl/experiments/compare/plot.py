"""Plot of a comparison: accuracy against cost, one point a method."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from epic_pl.experiments.compare.results import Row

_LABELS = {"seconds": "training, seconds", "trainable": "trained parameters"}


def draw(rows: Sequence[Row], path: Path) -> None:
    """Two panels: seconds of training, and trained parameters, on logarithmic axes."""
    main = rows[0]["metric"]
    trained = [row for row in rows if row["metric"] == main and row["seeds"]]
    figure = Figure(figsize=(12, 5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (cost, label) in zip(panels, _LABELS.items(), strict=True):
        for number, row in enumerate(trained):
            # a logarithmic axis has no zero
            at = max(row[cost] or 0, 1e-3), 100 * row["mean"]
            colour = f"C{number % 10}"
            axes.errorbar(*at, yerr=100 * (row["std"] or 0), fmt="o", capsize=3, color=colour)
            # neighbours have their labels above and below
            place = {"xytext": (5, -13 if number % 2 else 6), "textcoords": "offset points"}
            axes.annotate(row["method"], at, **place, fontsize=9, color=colour)
        axes.set(xscale="log", xlabel=label)
        axes.margins(x=0.2, y=0.15)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(f"test {main}, %")
    figure.savefig(path, dpi=150)
