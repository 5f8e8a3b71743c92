"""Results of a search: the best options as an overlay, a table of all trials, and a plot."""

import csv
import io
from pathlib import Path

import numpy as np
import optuna
import yaml
from jsonargparse import Namespace
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from optuna.trial import FrozenTrial, TrialState

from epic_pl.evaluation.report.scores import label
from epic_pl.experiments.tune.search import Search
from epic_pl.files import write_bytes, write_text
from epic_pl.inspection.html_page import BLUE, GREY, ORANGE, plot_style, png

_ATTRIBUTES = ("validations", "seconds", "message")


def write_results(study: optuna.Study, search: Search) -> Path | None:
    """Write ``trials.csv`` and ``best.yaml``, which ``fit`` takes as a second config.

    Returns:
        The path of ``best.yaml``; None while no trial is finished.
    """
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["trial", "state", search.monitor, *_ATTRIBUTES, *search.space])
    for trial in study.get_trials(deepcopy=False):
        if trial.state.is_finished():
            attributes = [trial.user_attrs.get(name) for name in _ATTRIBUTES]
            options = [trial.params.get(name) for name in search.space]
            state = trial.state.name.lower()
            writer.writerow([trial.number, state, trial.value, *attributes, *options])
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
def plot_history(study: optuna.Study, search: Search) -> None:
    """Write ``search.png``: the metric trial by trial, and the best one so far."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    # all metrics of validation are shares but the loss
    scale, unit = (1, "") if search.monitor.endswith("loss") else (100, ", %")
    values = [scale * trial.value for trial in done if trial.value is not None]
    numbers = [trial.number for trial in done]
    best = np.maximum.accumulate if search.mode == "max" else np.minimum.accumulate
    figure = Figure(figsize=(6.4, 3.2))
    axes = figure.add_subplot()
    axes.step(numbers, best(values), where="post", color=ORANGE, label="best so far")
    axes.plot(numbers, values, "o", color=BLUE, label="trial, one seed")
    pruned = [t.number for t in study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))]
    axes.plot(pruned, [min(values)] * len(pruned), "x", color=GREY, label="pruned, no value")
    axes.set(
        xlabel="trial", ylabel=f"validation {label(search.monitor.removeprefix('val/'))}{unit}"
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid()
    top = study.best_trial
    axes.set_title(f"best: trial {top.number}, {scale * (top.value or 0):.4g}{unit[-1:]}")
    figure.legend(loc="outside lower center", ncols=3)
    write_bytes(search.output / "search.png", png(figure))


def trial_line(trial: FrozenTrial, search: Search, total: int) -> str:
    """The line printed when a trial has ended."""
    if trial.state == TrialState.COMPLETE:
        text = f"{search.monitor} {trial.value:.4f}"
    else:
        known = trial.user_attrs
        text = known.get("message") or f"pruned at validation {known['validations']}"
    options = " ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in trial.params.items()
    )
    return f"trial {trial.number} of {total}: {text}; {options}"
