"""Results of a search: the best options as an overlay, a table of all trials, and a plot."""

import csv
import io
import warnings
from pathlib import Path
from typing import Any

import optuna
import yaml
from jsonargparse import Namespace
from optuna.trial import FrozenTrial, TrialState

from epic_pl.experiments.tune.search import Search
from epic_pl.files import replacing, write_text

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


def plot_history(study: optuna.Study, search: Search) -> None:
    """Write ``search.png``: the metric trial by trial."""
    import matplotlib.pyplot as plt
    from optuna.visualization.matplotlib import plot_optimization_history

    with warnings.catch_warnings(), plt.style.context("default"):
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        figure: Any = plot_optimization_history(study, target_name=search.monitor).figure
        with replacing(search.output / "search.png") as partial:
            figure.savefig(partial, format="png", dpi=150)
        plt.close(figure)


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
