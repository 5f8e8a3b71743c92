"""The figures of a report.

Shape legend: C classes.
"""

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from epic_pl.module.evaluator import Evaluator
from epic_pl.module.outputs import SplitOutputs
from epic_pl.report.scores import Table, label, wilson_interval
from epic_pl.utils.html_page import GREY, SHADES, plot_style, shorten

MAX_CLASSES = 40
"""With more, counts and names would be illegible: there is no confusion matrix."""


def draw_figures(content: dict[str, Any], class_names: list[str]) -> dict[str, Figure]:
    """Draw the figures, by name, from the content of ``report.json``."""
    figures = {
        "coverage": _draw_coverage(content["coverage"], label(content["headline"]["score"])),
        "reliability": _draw_reliability(content["calibration"]["bins"], content["task"]),
    }
    if "confusion" in content and len(class_names) <= MAX_CLASSES:
        counts = torch.tensor(content["confusion"])
        figures["confusion_matrix"] = draw_confusion_matrix(counts, class_names)
    return figures


@plot_style()
def _draw_reliability(bins: Table, task: str) -> Figure:
    """Draw the share of correct answers against their probability, and numbers of answers."""
    bins, width = [row for row in bins if row["samples"]], 0.9 / len(bins)
    counts, shares, means = ([r[k] for r in bins] for k in ("samples", "accuracy", "probability"))
    figure = Figure(figsize=(4.8, 4.4))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], "--", color=GREY, label="perfect calibration")
    upper.plot(means, shares, "o-", label="after calibration")
    intervals = [wilson_interval(s * n, n) for s, n in zip(shares, counts, strict=True)]
    upper.vlines(means, *zip(*intervals, strict=True), alpha=0.5, label="95% interval")
    bars = lower.bar([(row["from"] + row["to"]) / 2 for row in bins], counts, width)
    lower.bar_label(bars, fmt=lambda n: f"{n:.0f}" if n < 1e4 else f"{n / 1e3:.0f}k", fontsize=7)
    lower.margins(y=0.25)
    lower.set(xlim=(0, 1), xlabel="predicted probability", ylabel="answers")
    truth = "share of labels that are true" if task == "multilabel" else "accuracy"
    upper.set(ylim=(-0.02, 1.02), ylabel=truth)
    figure.legend(loc="outside upper left", ncols=2)
    return figure


@plot_style()
def _draw_coverage(coverage: Table, score: str) -> Figure:
    """Draw the score of the most confident answers against their share of all answers."""
    figure = Figure(figsize=(4.8, 2.8))
    axes = figure.add_subplot()
    shares, values = ([100 * row[key] for row in coverage] for key in ("coverage", "score"))
    axes.plot(shares, values, marker="o", markersize=4, clip_on=False)
    axes.set(xlabel="answered: the surest samples, %", ylabel=f"{score}, %")
    axes.set(xlim=(0, 100), ylim=(None, min(100, axes.get_ylim()[1])))
    axes.grid()
    return figure


def confusion_counts(evaluator: Evaluator, outputs: SplitOutputs) -> Tensor:
    """Confusion matrix ``(C, C)`` of a multiclass task, with true classes in rows."""
    predicted, classes = evaluator.predict(outputs.logits), len(evaluator.class_names)
    return multiclass_confusion_matrix(predicted, outputs.labels.long(), classes)


@plot_style()
def draw_confusion_matrix(counts: Tensor, class_names: list[str]) -> Figure:
    """Draw counts ``(C, C)`` with true classes in rows; shades are shares of each row."""
    size = len(class_names)
    side = max(3.0, 0.32 * size + 1.6)
    figure = Figure(figsize=(side, side))
    axes = figure.add_subplot()
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    axes.imshow(shares.numpy(), cmap=SHADES, vmin=0, vmax=1)
    # do not parse names, in which a $ would start a formula
    names = [shorten(name, 30) for name in class_names]
    axes.set_xticks(range(size), names, rotation=90, parse_math=False)
    axes.set_yticks(range(size), names, parse_math=False)
    accuracy = counts.diagonal().sum() / counts.sum().clamp(min=1)
    title = f"{int(counts.sum()):,} samples, accuracy {accuracy:.1%}"
    axes.set(xlabel="predicted", ylabel="true", title=title)
    for row, column in counts.nonzero().tolist():
        shade = "white" if shares[row, column] > 0.7 else "black"
        count = str(int(counts[row, column]))
        axes.text(column, row, count, ha="center", va="center", color=shade, fontsize=8)
    return figure
