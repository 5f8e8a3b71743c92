"""Ranges and choices from YAML, and values as options and as an overlay."""

import optuna
import pytest

from epic_pl.errors import ConfigError
from epic_pl.experiments.options import as_options
from epic_pl.experiments.tune.space import Choice, Range, overlay, read_space, suggest, values_of


def _space(tmp_path, text):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return read_space(str(path))


def test_a_space_is_read_and_drawn_from(tmp_path):
    space = _space(
        tmp_path,
        "model.optim.lr: {low: 1e-4, high: 1.0e-2, log: true}\n"
        "model.epic.num_prompts: {low: 1, high: 8}\n"
        "model.epic.hub: [none, bottleneck]\n",
    )
    assert space["model.optim.lr"] == Range(1e-4, 1e-2, True)
    assert space["model.epic.hub"] == Choice(("none", "bottleneck"))
    trial = optuna.trial.FixedTrial(
        {"model.optim.lr": 0.003, "model.epic.num_prompts": 8, "model.epic.hub": "none"}
    )
    assert suggest(space, trial) == trial.params
    assert isinstance(space["model.epic.num_prompts"].low, int)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.optim.lr: {low: 1, high: 1}", "model.optim.lr"),
        ("model.optim.lr: {low: 0, high: 1, log: true}", "above 0"),
        ("model.optim.lr: {low: 0}", "model.optim.lr"),
        ("model.optim.lr: 3", "model.optim.lr"),
        ("model.method: [epic]", "model.method"),
        ("model.method: [[1], 2]", "model.method"),
        ("seed_everything: [1, 2]", "same in all trials"),
        ("checkpoint.monitor: [val/loss, val/accuracy]", "same in all trials"),
        ("[a]", "no mapping"),
        ("a: [", "cannot be read"),
    ],
)
def test_bad_spaces_are_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        _space(tmp_path, text)


def test_values_of_a_config_that_lie_in_the_space():
    space = {
        "a.b": Range(1, 4),
        "a.c": Choice((None, "x")),
        "a.d": Range(0.0, 1.0),
        "e": Range(1, 2),
    }
    parsed = {"a": {"b": 3, "c": None, "d": 1.5}, "e": [[1, 1]]}
    assert values_of(space, parsed) == {"a.b": 3, "a.c": None}


def test_options_and_overlay_of_values():
    values = {"model.optim.lr": 0.5, "model.head.boundary": True, "data.init_args.order": "length"}
    assert as_options(values) == [
        "--model.optim.lr=0.5",
        "--model.head.boundary=true",
        "--data.init_args.order=length",
    ]
    assert overlay(values) == {
        "model": {"optim": {"lr": 0.5}, "head": {"boundary": True}},
        "data": {"init_args": {"order": "length"}},
    }
