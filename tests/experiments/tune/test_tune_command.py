"""``epic-pl tune`` on a table whose test images cannot be read."""

import contextlib
import csv
import math
import shutil
import sqlite3
import sys
from dataclasses import fields
from types import SimpleNamespace

import matplotlib
import optuna
import pytest
import yaml
from jsonargparse import ArgumentError
from optuna.distributions import FloatDistribution
from tiny_models import METHODS

from epic_pl.cli.main import call
from epic_pl.experiments.tune import study
from epic_pl.experiments.tune.search import Search, plan_search
from epic_pl.experiments.tune.study import TrialWatch, best_options, train
from epic_pl.experiments.tune.summary import draw_history
from epic_pl.module.config import OptimConfig
from epic_pl.nn import HeadConfig
from epic_pl.run.epic_cli import run
from epic_pl.utils.errors import ConfigError

SPACE = """\
model.optim.lr: {low: 1.0e-4, high: 1.0e-2, log: true}
model.method.num_prompts: {low: 1, high: 4}
"""
OUTPUT = "search [1] of 100%20?#"
LR = {"model.optim.lr": FloatDistribution(1e-4, 1e-2, log=True)}
PARSED = {"seed_everything": 0, "trainer": {"max_epochs": 2}, "data": {}}


@pytest.fixture
def config(config, tmp_path):
    for image in (tmp_path / "data" / "images").glob("test*"):
        image.write_bytes(b"no image")
    (tmp_path / "space.yaml").write_text(SPACE)
    return config


def _rows(folder):
    with (folder / "trials.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_search_goes_on_past_a_killed_trial(config, tmp_path):
    options = ["--config", config, "--space", "space.yaml", "--output", OUTPUT]
    assert call("tune", [*options, "--trials", "1"]) == 0
    first = _rows(tmp_path / OUTPUT)
    assert [row["state"] for row in first] == ["complete"]
    # the first trial is the config as it stands
    assert (float(first[0]["model.optim.lr"]), first[0]["model.method.num_prompts"]) == (
        1.5e-3,
        "2",
    )
    shutil.copy(tmp_path / OUTPUT / "study.db", "plain.db")
    optuna.load_study(study_name="epic-pl", storage="sqlite:///plain.db").ask()  # as if killed
    shutil.copy("plain.db", tmp_path / OUTPUT / "study.db")
    assert call("tune", [*options, "--trials", "2"]) == 0
    rows = _rows(tmp_path / OUTPUT)
    assert rows[:1] == first
    assert [row["state"] for row in rows[1:]] == ["fail", "complete"]
    best = max(rows, key=lambda row: float(row["val/accuracy"] or -1))
    overlay = yaml.safe_load((tmp_path / OUTPUT / "best.yaml").read_text())
    assert overlay["model"]["optim"]["lr"] == pytest.approx(float(best["model.optim.lr"]))
    assert (tmp_path / OUTPUT / "search.png").stat().st_size > 1000
    assert not list((tmp_path / OUTPUT).rglob("*.ckpt"))
    configs = ["--config", config, "--config", f"{OUTPUT}/best.yaml"]
    fitted = run(["fit", *configs, "--trainer.fast_dev_run", "true"])
    assert fitted.model.hparams["optim"]["lr"] == overlay["model"]["optim"]["lr"]
    with pytest.raises(ConfigError, match="search of other options"):
        call("tune", [*options, "--model.method.hub_width", "16"])


@pytest.mark.parametrize("method", METHODS)
def test_the_space_has_what_the_method_has(method, config, tmp_path):
    options = ["--config", config, f"--model.method={method}"]
    space = plan_search(options, None, tmp_path).space
    kinds = {"method": METHODS[method], "optim": OptimConfig, "head": HeadConfig}
    known = {f"model.{part}.{each.name}" for part, kind in kinds.items() for each in fields(kind)}
    assert space.keys() <= known | {"model.modality_dropout", "model.loss.label_smoothing"}
    own = {field.name for field in fields(METHODS[method])}
    wanted = {"num_prompts", "interaction_layers"} & own
    if METHODS[method].space == "head.yaml":  # no prompts
        wanted = set()
        assert "model.optim.prompt_lr" not in space
    assert {"model.optim.lr", *(f"model.method.{name}" for name in wanted)} <= space.keys()


def test_a_method_may_name_its_own_space(config, tmp_path, monkeypatch):
    monkeypatch.setattr(METHODS["Parts"], "space", str(tmp_path / "space.yaml"))
    found = plan_search(["--config", config, "--model.method=Parts"], None, tmp_path).space
    assert list(found) == ["model.optim.lr"]  # it has no num_prompts


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name != "LateFusionMLP" else [])
        for name in METHODS
    ],
)
def test_each_method_is_tuned(method, config, tmp_path):
    if method == "LoRA":
        pytest.importorskip("peft")
    options = ["--config", config, f"--model.method={method}", "--trainer.fast_dev_run=1"]
    assert call("tune", [*options, "--trials=2", f"--output={tmp_path}"]) == 0
    rows = _rows(tmp_path)
    assert rows[0]["state"] == "complete"
    assert rows[1]["state"] == "complete" or "layers: give" in rows[1]["message"]


def test_a_pruned_trial_ends_at_that_validation(config):
    reported = []
    trial = SimpleNamespace(
        report=lambda *arguments: reported.append(arguments),
        should_prune=lambda: len(reported) == 2,
    )
    watch = TrialWatch(trial, "val/loss")
    train(["--config", config, "--trainer.max_epochs", "5", "--trainer.min_epochs", "4"], watch)
    assert reported == [(watch.values[0], 0), (watch.values[1], 1)]
    assert watch.pruned


def test_a_metric_that_nothing_logs_ends_a_trial(config):
    with pytest.raises(ConfigError, match="searched metric is 'val/none', which nothing has log"):
        train(["--config", config], TrialWatch(None, "val/none"))


@pytest.mark.parametrize(("keeps_best", "best"), [(True, 0.25), (False, 0.5)])
def test_the_value_of_a_trial_is_its_best_or_last_finite_one(
    keeps_best, best, tmp_path, monkeypatch
):
    seen = iter([[0.5, 0.25, 0.5], [0.75, 0.25, math.nan], [math.nan]])
    monkeypatch.setattr(study, "train", lambda options, watch: watch.values.extend(next(seen)))
    search = Search((), PARSED, LR, "val/loss", "min", keeps_best, tmp_path)
    best_options(search, 3)
    rows = _rows(tmp_path)
    assert float(rows[0]["val/loss"]) == best
    assert [row["state"] for row in rows] == [
        "complete",
        "complete" if keeps_best else "fail",
        "fail",
    ]
    assert rows[2]["message"] == "val/loss was never a finite number"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trials", "0"], "trials"),
        (["--checkpoint.monitor", "train/loss"], "metric of the validation"),
        (["--trainer.default_root_dir", "x"], "sets trainer.default_root_dir itself"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(config, tmp_path, options, message):
    with pytest.raises((ArgumentError, ConfigError), match=message):
        call("tune", ["--config", config, *options])
    assert not (tmp_path / "runs").exists()


def test_an_error_of_the_config_ends_the_search(config, tmp_path):
    (tmp_path / "data" / "images" / "train1.png").unlink()
    with pytest.raises(Exception, match=r"train1\.png"):
        call("tune", ["--config", config, "--space", "space.yaml", "--trials", "4"])
    assert len(list((tmp_path / "runs" / "tune" / "tiny" / "trials").iterdir())) == 1


@pytest.mark.parametrize("command", [["tune"], ["compare", "--tune=1"]])
def test_without_the_library_the_message_says_what_to_install(command, config, told, monkeypatch):
    for name in ("epic_pl.experiments.tune.search", "optuna.distributions"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, error = told(*command, "--config", config)
    assert code == 1
    assert "pip install optuna" in error


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The study of a search of our own, which was continued once."""
    root = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "train", lambda options, watch: watch.values.append(0.5))
        for trials in (1, 2):
            search = Search((), PARSED, LR, "val/accuracy", "max", True, root)
            assert list(best_options(search, trials)) == ["model.optim.lr"]
    return root / "study.db"


_FOREIGN = """
    insert into trials(number, study_id, state)
        values ((select count(*) from trials), 1, 'COMPLETE');
    insert into trial_params(trial_id, param_name, param_value, distribution_json) values (
        (select max(trial_id) from trials), 'trainer.callbacks', 0,
        '{"name": "CategoricalDistribution",
          "attributes": {"choices": [[{"class_path": "trap.Trap"}], null]}}'
    );
"""


@pytest.mark.parametrize(
    "change",
    [
        b"no database" * 1000,
        "create table studies (a int)",
        "delete from study_user_attributes",
        "update study_directions set direction = 'MINIMIZE'",
        "update trials set state = 'OTHER'",
        "update trial_params set distribution_json = '[]'",
        _FOREIGN,
    ],
)
def test_a_study_of_others_is_refused_and_sets_no_option(change, searched, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "train", lambda options, watch: pytest.fail("trained"))
    search = Search((), PARSED, LR, "val/accuracy", "max", True, tmp_path)
    file = tmp_path / "study.db"
    if change != "create table studies (a int)":
        shutil.copy(searched, file)
    if isinstance(change, bytes):
        file.write_bytes(change)
    else:
        with contextlib.closing(sqlite3.connect(file)) as database:
            database.executescript(change)
    with pytest.raises(ConfigError, match=r"[Gg]ive --output another folder"):
        best_options(search, 4)


def test_a_trial_that_was_cut_off_is_done_again_with_the_same_options(
    config, tmp_path, monkeypatch
):
    count = []

    def train(options, watch):
        count.append(options)
        if len(count) == 7:  # the third of the second search
            raise KeyboardInterrupt
        values = dict(option.split("=", 1) for option in options if "=" in option)
        watch.values.append(float(values["--model.optim.lr"]))
        watch.pruned = not values["--trainer.default_root_dir"].endswith("0000")

    monkeypatch.setattr(study, "train", train)
    options = ["--config", config, "--space", "space.yaml", "--trials", "4", "--output"]
    assert call("tune", [*options, "whole"]) == 0
    with pytest.raises(KeyboardInterrupt, match="continues the search"):
        call("tune", [*options, "cut"])
    assert len(_rows(tmp_path / "cut")) == 3
    assert call("tune", [*options, "cut"]) == 0
    whole, cut = _rows(tmp_path / "whole"), _rows(tmp_path / "cut")
    assert [row.pop("trial") for row in cut if row["state"] == "fail"] == ["2"]
    kept = [row for row in cut if row["state"] != "fail"]
    for row in (*whole, *kept):
        del row["trial"], row["seconds"]
    assert kept == whole
    assert len({row["model.optim.lr"] for row in whole}) == 4


def test_the_plot_leaves_the_style_of_other_figures_alone():
    study = optuna.create_study(direction="maximize")
    study.tell(study.ask(), 0.5)
    before = {**matplotlib.rcParams}
    assert draw_history(study, SimpleNamespace(monitor="val/accuracy")).startswith(b"\x89PNG")
    assert {**matplotlib.rcParams} == before
