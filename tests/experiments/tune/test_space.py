"""Search spaces from YAML, and values as options and as an overlay."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from epic_pl.errors import ConfigError
from epic_pl.experiments.options import as_options
from epic_pl.experiments.tune.space import overlay, read_space, values_of


def _space(tmp_path, text):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return read_space(str(path))


def test_a_space_has_ranges_and_choices(tmp_path):
    space = _space(
        tmp_path, "a: {low: 1e-4, high: 1.0e-2, log: true}\nb: {low: 1, high: 8}\nc: [x, y]"
    )
    assert space == {
        "a": FloatDistribution(1e-4, 1e-2, log=True),
        "b": IntDistribution(1, 8),
        "c": CategoricalDistribution(("x", "y")),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.lr: {low: 1, high: 1}", "model.lr"),
        ("model.lr: {low: 0, high: 1, log: true}", "above 0"),
        ("model.lr: {low: 0}", "model.lr"),
        ("model.lr: 3", "model.lr"),
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


def test_values_of_a_config_that_are_in_the_space(tmp_path):
    text = (
        "a.b: {low: 1, high: 4}\na.c: [null, x]\na.d: {low: 0.0, high: 1.0}\ne: {low: 1, high: 2}"
    )
    parsed = {"a": {"b": 3, "c": None, "d": 1.5}, "e": [[1, 1]]}
    assert values_of(_space(tmp_path, text), parsed) == {"a.b": 3, "a.c": None}


def test_options_and_overlay_of_values():
    values = {"model.optim.lr": 0.5, "model.head.boundary": True, "data.init_args.order": "blocks"}
    assert as_options(values) == [
        "--model.optim.lr=0.5",
        "--model.head.boundary=true",
        "--data.init_args.order=blocks",
    ]
    assert overlay(values) == {
        "model": {"optim": {"lr": 0.5}, "head": {"boundary": True}},
        "data": {"init_args": {"order": "blocks"}},
    }
