"""Results of a search: the best options as an overlay, and a table of all trials."""

import csv
import io
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from epic_pl.experiments.files import write_text
from epic_pl.experiments.tune.plot import draw
from epic_pl.experiments.tune.space import overlay
from epic_pl.experiments.tune.study import Search, was_cut_off


def write_results(study: optuna.Study, search: Search, plot: bool = False) -> Path | None:
    """Write ``trials.csv`` and ``best.yaml``, which ``fit`` takes as a second config.

    Returns:
        The path of ``best.yaml``; None while no trial is finished.
    """
    write_text(search.output / "trials.csv", _table(study, search))
    if plot:
        draw(study, search)
    best = best_trial(study)
    if best is None:
        return None
    path = search.output / "best.yaml"
    head = f"# Trial {best.number}: {search.monitor} {best.value:.6g}, the best on validation.\n"
    write_text(path, head + yaml.safe_dump(overlay(best.params), sort_keys=False))
    return path


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The best of the trials that were trained to their end."""
    try:
        return study.best_trial
    except ValueError:
        return None


def _table(study: optuna.Study, search: Search) -> str:
    """CSV of number, state, metric, validations, seconds, message and options."""
    file = io.StringIO()
    writer = csv.writer(file)
    known = ["validations", "seconds", "message"]
    writer.writerow(["trial", "state", search.monitor, *known, *search.space])
    for trial in study.get_trials(deepcopy=False):
        if trial.state.is_finished():
            state = "cut off" if was_cut_off(trial) else trial.state.name.lower()
            options = [trial.params.get(name) for name in search.space]
            attributes = map(trial.user_attrs.get, known)
            writer.writerow([trial.number, state, trial.value, *attributes, *options])
    return file.getvalue()


def trial_line(study: optuna.Study, trial: FrozenTrial, search: Search, total: int) -> str:
    """The line printed when a trial has ended."""
    if trial.state == TrialState.COMPLETE:
        text = f"{search.monitor} {trial.value:.4f}"
    else:
        text = trial.user_attrs.get("message", "stopped at the time limit")
    if (best := best_trial(study)) is not None:
        text += f" (best {best.value:.4f} of trial {best.number})"
    if (seconds := trial.user_attrs.get("seconds")) is not None:
        text += f", {seconds:.0f} s"
    options = " ".join(
        f"{name.removeprefix('model.')}={_value(value)}" for name, value in trial.params.items()
    )
    return f"trial {trial.number} of {total}: {text}; {options}"


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
