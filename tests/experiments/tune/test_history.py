"""The plot of a search."""

from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState

from epic_pl.experiments.tune.report import draw_history


@pytest.mark.parametrize(
    ("monitor", "mode", "label", "best"),
    [
        ("val/accuracy", "max", "validation accuracy, %", [50, 50, 75]),
        ("val/loss", "min", "validation loss", [0.5, 0.25, 0.25]),
    ],
)
def test_the_plot_has_every_trial_and_the_best_so_far(monitor, mode, label, best):
    study = optuna.create_study(direction=f"{mode}imize")
    for value in (0.5, 0.25, None, 0.75):
        trial = study.ask()
        study.tell(trial, value, state=TrialState.PRUNED if value is None else None)
    figure = draw_history(study, SimpleNamespace(monitor=monitor, mode=mode))
    (axes,) = figure.axes
    steps, trials, pruned = axes.get_lines()
    scale = 100 if mode == "max" else 1
    assert steps.get_ydata().tolist() == best
    assert list(trials.get_ydata()) == [0.5 * scale, 0.25 * scale, 0.75 * scale]
    assert list(pruned.get_xdata()) == [2]
    assert axes.get_ylabel() == label
