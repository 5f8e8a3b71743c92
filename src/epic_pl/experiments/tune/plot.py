"""Plot of a search: the metric trial by trial, and the importance of each option."""

import warnings
from typing import Any

from matplotlib.figure import Figure

from epic_pl.experiments.tune.study import Search, load_optuna

_ENOUGH = 8  # finished trials for an importance


def draw(study: Any, search: Search) -> None:
    """Write ``search.png``, once a trial is finished."""
    optuna = load_optuna()
    states = optuna.trial.TrialState
    done = study.get_trials(deepcopy=False, states=(states.COMPLETE,))
    if not done:
        return
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers, values = [t.number for t in done], [t.value for t in done]
    better = max if search.mode == "max" else min
    best = [better(values[: count + 1]) for count in range(len(values))]
    left.scatter(numbers, values, label="trial", color="C0")
    left.step(numbers, best, where="post", label="best so far", color="C1")
    pruned = study.get_trials(deepcopy=False, states=(states.PRUNED,))
    if pruned:
        bests = [better(trial.intermediate_values.values()) for trial in pruned]
        left.scatter([t.number for t in pruned], bests, marker="x", label="pruned", color="grey")
    left.set_xlabel("trial")
    left.set_ylabel(search.monitor)
    left.legend()
    left.grid(alpha=0.3)
    if weights := _importance(optuna, study, len(done)):
        names = list(reversed(weights))
        right.barh(names, [weights[name] for name in names])
        right.set_xlabel("importance (PED-ANOVA)")
    else:
        right.set_axis_off()
        right.text(0.5, 0.5, f"importance: from {_ENOUGH} finished trials on", ha="center")
    figure.savefig(search.output / "search.png", dpi=150)


def _importance(optuna: Any, study: Any, count: int) -> dict[str, float]:
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
