"""Search spaces from YAML, and values as options and as an overlay."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from epic_pl.experiments.tune.search import read_space, values_of
from epic_pl.utils.errors import ConfigError


def _space(tmp_path, text):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    return read_space(str(path))


def test_a_space_has_ranges_and_choices(tmp_path):
    text = "a: {low: 1e-4, high: 1.0e-2, log: true}\nb: {low: 1, high: 8}\nc: [x, y]"
    assert _space(tmp_path, text) == {
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
        ("[a]", "must map"),
        ("a: [", "cannot be read"),
    ],
)
def test_bad_spaces_are_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        _space(tmp_path, text)


def test_values_of_a_config_that_are_in_the_space(tmp_path):
    ranges = "a.b: {low: 1, high: 4}", "a.d: {low: 0.0, high: 1.0}", "e: {low: 1, high: 2}"
    text = "\n".join([*ranges, "a.c: [null, x]"])
    parsed = {"a": {"b": 3, "c": None, "d": 1.5}, "e": [[1, 1]]}
    assert values_of(_space(tmp_path, text), parsed) == {"a.b": 3, "a.c": None}
