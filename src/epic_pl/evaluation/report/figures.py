"""Pictures of a report."""

from typing import Any

from matplotlib.figure import Figure

_PANELS = (("_uncalibrated", "before calibration"), ("", "after calibration"))


def draw_reliability(calibration: dict[str, Any], task: str) -> Figure:
    """Share of right answers over their probability, before and after calibration.

    Args:
        calibration: as :func:`~epic_pl.evaluation.report.tables.calibration_table` gives it.
        task: says what is counted.
    """
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    for axes, (suffix, title) in zip(figure.subplots(1, 2, sharey=True), _PANELS, strict=True):
        bins = [each for each in calibration[f"bins{suffix}"] if each["samples"]]
        total = sum(each["samples"] for each in bins)
        centres = [(each["from"] + each["to"]) / 2 for each in bins]
        width = 1 / len(calibration[f"bins{suffix}"])
        shares = [each["samples"] / total for each in bins]
        axes.bar(centres, [each["accuracy"] for each in bins], width, edgecolor="white")
        axes.plot([0, 1], [0, 1], color="tab:red", linestyle="--", label="as it should be")
        axes.plot(centres, shares, marker="o", color="black", label="share of all")
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="predicted probability")
        axes.set_title(f"{title}: ECE {calibration[f'ece{suffix}']:.3f}")
        axes.legend(loc="upper left", fontsize=8)
    label = "share of labels that are true" if task == "multilabel" else "accuracy"
    figure.axes[0].set_ylabel(label)
    return figure
