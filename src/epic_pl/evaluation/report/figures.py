"""Figures of a report."""

from typing import Any

from matplotlib.figure import Figure

_PANELS = (("_uncalibrated", "before calibration"), ("", "after calibration"))


def draw_reliability(calibration: dict[str, Any], task: str) -> Figure:
    """Share of right answers over their probability, before and after calibration."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    for axes, (suffix, title) in zip(figure.subplots(1, 2, sharey=True), _PANELS, strict=True):
        width = 1 / len(calibration[f"bins{suffix}"])
        bins = [row for row in calibration[f"bins{suffix}"] if row["samples"]]
        centres = [(row["from"] + row["to"]) / 2 for row in bins]
        total = sum(row["samples"] for row in bins)
        axes.bar(centres, [row["accuracy"] for row in bins], width, edgecolor="white")
        axes.plot([0, 1], [0, 1], color="tab:red", linestyle="--", label="perfect calibration")
        shares = [row["samples"] / total for row in bins]
        axes.plot(centres, shares, marker="o", color="black", label="share of all answers")
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="predicted probability")
        axes.set_title(f"{title}: ECE {calibration[f'ece{suffix}']:.3f}")
        axes.legend(loc="upper left", fontsize=8)
    label = "share of labels that are true" if task == "multilabel" else "accuracy"
    figure.axes[0].set_ylabel(label)
    return figure
