"""The files of a search: the best options as an overlay, a table of all trials, and a plot."""

import csv
import io
import warnings
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import optuna
import yaml
from jsonargparse import Namespace
from matplotlib import rc_context
from optuna.exceptions import ExperimentalWarning
from optuna.visualization.matplotlib import plot_optimization_history

from epic_pl.experiments.tune.search import Search
from epic_pl.utils.files import write_text
from epic_pl.utils.html_page import png

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


@rc_context()  # Optuna sets the style for the whole process
def draw_history(study: optuna.Study, search: Search) -> bytes:
    """Optuna's plot of the metric of each trial, and of the best one so far, as PNG."""
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        figure: Any = plot_optimization_history(study, target_name=search.monitor).figure
    plt.close(figure)
    return png(figure)
