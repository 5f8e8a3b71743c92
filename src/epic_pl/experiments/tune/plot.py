"""Plot of a search: the metric trial by trial, and the importance of each option."""

import warnings

import numpy as np
import optuna
from matplotlib.figure import Figure
from optuna.trial import TrialState

from epic_pl.experiments.tune.study import Search

_ENOUGH = 8  # finished trials for an importance


def draw(study: optuna.Study, search: Search) -> None:
    """Write ``search.png``, once a trial is finished."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not done:
        return
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers, values = [t.number for t in done], np.array([t.value for t in done], dtype=float)
    better, extreme = (max, np.maximum) if search.mode == "max" else (min, np.minimum)
    left.scatter(numbers, values, label="trial", color="C0")
    left.step(numbers, extreme.accumulate(values), where="post", label="best so far", color="C1")
    pruned = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    if pruned:
        bests = [better(trial.intermediate_values.values()) for trial in pruned]
        left.scatter([t.number for t in pruned], bests, marker="x", label="pruned", color="grey")
    left.set_xlabel("trial")
    left.set_ylabel(search.monitor)
    left.legend()
    left.grid(alpha=0.3)
    if weights := _importance(study, len(done)):
        names = list(reversed(weights))
        right.barh(names, [weights[name] for name in names])
        right.set_xlabel("importance (PED-ANOVA)")
    else:
        right.set_axis_off()
        right.text(0.5, 0.5, f"importance: from {_ENOUGH} finished trials on", ha="center")
    figure.savefig(search.output / "search.png", dpi=150)


def _importance(study: optuna.Study, count: int) -> dict[str, float]:
    """Options by importance, greatest first; none where trials are too few or all alike."""
    if count < _ENOUGH:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        try:
            return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
        except (ValueError, RuntimeError):
            return {}
