"""The files of a search: the best options as an overlay, a table of all trials, and a plot."""

import csv
import io
from pathlib import Path

import numpy as np
import optuna
import yaml
from jsonargparse import Namespace
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.trial import TrialState

from epic_pl.experiments.tune.search import Search
from epic_pl.report.scores import label
from epic_pl.utils.files import write_text
from epic_pl.utils.html_page import BLUE, GREY, ORANGE, plot_style

MESSAGE = "message"
"""Attribute of a trial: why it failed."""


def write_results(study: optuna.Study, search: Search) -> Path | None:
    """Write ``trials.csv`` and ``best.yaml``, which ``fit`` takes as a second config.

    Returns:
        The path of ``best.yaml``; None while no trial is finished.
    """
    file = io.StringIO()
    writer = csv.writer(file)
    columns = ("trial", "state", search.monitor, "validations", "seconds", "message")
    writer.writerow([*columns, *search.space])
    for trial in study.get_trials(deepcopy=False):
        if trial.state.is_finished():
            seconds = "" if trial.duration is None else round(trial.duration.total_seconds(), 2)
            ended = [len(trial.intermediate_values), seconds, trial.user_attrs.get(MESSAGE)]
            options = [trial.params.get(name) for name in search.space]
            writer.writerow([trial.number, trial.state.name.lower(), trial.value, *ended, *options])
    write_text(search.output / "trials.csv", file.getvalue())
    try:
        best = study.best_trial
    except ValueError:
        return None
    overlay = Namespace()  # type: ignore[no-untyped-call]  # jsonargparse
    for name, value in best.params.items():
        overlay[name] = value
    head = f"# Trial {best.number}: {search.monitor} {best.value:.6g}, the best on validation.\n"
    path = search.output / "best.yaml"
    write_text(path, head + yaml.safe_dump(overlay.as_dict(), sort_keys=False))
    return path


@plot_style()
def draw_history(study: optuna.Study, search: Search) -> Figure:
    """A figure of the metric of each trial, and of the best one so far."""
    # all validation metrics but the loss are between 0 and 1
    scale, unit = (1, "") if search.monitor.endswith("loss") else (100, "%")
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    numbers, values = zip(*((t.number, scale * (t.value or 0)) for t in done), strict=True)
    pruned = [t.number for t in study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))]
    better = np.maximum if search.mode == "max" else np.minimum
    best = better.accumulate(values)
    worst = min(values) if search.mode == "max" else max(values)
    figure = Figure(figsize=(6.4, 3.2))
    axes = figure.add_subplot(xlabel="trial", title=f"best: {best[-1]:.4g}{unit}")
    name = label(search.monitor.removeprefix("val/")) if unit else "loss"
    axes.set_ylabel(f"validation {name}" + (f", {unit}" if unit else ""))
    axes.step(numbers, best, where="post", color=ORANGE, label="best so far")
    axes.plot(numbers, values, "o", color=BLUE, label="trial, one seed")
    axes.plot(pruned, [worst] * len(pruned), "x", color=GREY, label="pruned, no value")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid()
    figure.legend(loc="outside lower center", ncols=3)
    return figure
