"""What a search leaves beside its study: the best options as an overlay, and a row a trial."""

import csv
from pathlib import Path
from typing import Any

import yaml

from epic_pl.experiments.tune.space import overlay
from epic_pl.experiments.tune.study import Search, cut_off


def best_trial(study: Any) -> Any | None:
    """The best of those trained to their end."""
    try:
        return study.best_trial
    except ValueError:
        return None


def write_best(study: Any, search: Search) -> Path | None:
    """``best.yaml``, which ``fit`` takes as a second config; None while there is no best trial."""
    best = best_trial(study)
    if best is None:
        return None
    path = search.output / "best.yaml"
    told = f"# Trial {best.number}: {search.monitor} {best.value:.6g}, the best of validation.\n"
    _replace(path, told + yaml.safe_dump(overlay(best.params), sort_keys=False))
    return path


def write_trials(study: Any, search: Search) -> Path:
    """``trials.csv``: number, state, metric, validations, seconds, message and options."""
    path = search.output / "trials.csv"
    temporary = path.with_name(f".{path.name}.tmp")
    cut = cut_off(study)
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        known = ["validations", "seconds", "message"]
        writer.writerow(["trial", "state", search.monitor, *known, *search.space])
        for trial in study.get_trials(deepcopy=False):
            if trial.state.is_finished():
                attributes = {"message": cut.get(str(trial.number))} | trial.user_attrs
                state = "cut off" if str(trial.number) in cut else trial.state.name.lower()
                options = [trial.params.get(name) for name in search.space]
                row = [trial.number, state, trial.value, *map(attributes.get, known), *options]
                writer.writerow(row)
    temporary.replace(path)
    return path


def _replace(path: Path, text: str) -> None:
    """Write a file that is there as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def trial_line(study: Any, trial: Any, search: Search, total: int) -> str:
    """What is said of a trial when it has ended."""
    states = type(trial.state)
    if trial.state == states.COMPLETE:
        said = f"{search.monitor} {trial.value:.4f}"
    else:
        said = trial.user_attrs.get("message") or cut_off(study).get(str(trial.number), "failed")
    best, seconds = best_trial(study), trial.user_attrs.get("seconds")
    if best is not None:
        said += f" (best {best.value:.4f} of trial {best.number})"
    if seconds is not None:
        said += f", {seconds:.0f} s"
    options = " ".join(f"{_short(name)}={_value(value)}" for name, value in trial.params.items())
    return f"trial {trial.number}, {total} wanted: {said}; {options}"


def _short(name: str) -> str:
    return name.removeprefix("model.")


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
