"""``epic-pl tune`` on a table whose test images cannot be read."""

import contextlib
import csv
import shutil
import sqlite3
import sys
from types import SimpleNamespace

import optuna
import pytest
import yaml
from jsonargparse import ArgumentError
from optuna.distributions import FloatDistribution

from epic_pl.cli.epic_cli import run
from epic_pl.cli.main import call
from epic_pl.experiments.tune import study
from epic_pl.experiments.tune.search import Search
from epic_pl.experiments.tune.study import best_options
from epic_pl.experiments.tune.trial import TrialWatch, run_trial
from epic_pl.utils.errors import ConfigError

SPACE = """\
model.optim.lr: {low: 1.0e-4, high: 1.0e-2, log: true}
model.epic.num_prompts: {low: 1, high: 4}
"""
OUTPUT = "search [1] of 100%20?#"


@pytest.fixture
def config(config, tmp_path):
    for image in (tmp_path / "data" / "images").glob("test*"):
        image.write_bytes(b"no image")
    (tmp_path / "space.yaml").write_text(SPACE)
    return config


def _rows(folder):
    with (folder / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_search_goes_on_past_a_killed_trial(config, tmp_path, capsys):
    options = ["--config", config, "--space", "space.yaml", "--output", OUTPUT]
    assert call("tune", [*options, "--trials", "2"]) == 0
    first = _rows(tmp_path / OUTPUT)
    assert [row["state"] for row in first] == ["complete", "complete"]
    # the first trial is the config as it stands
    assert (float(first[0]["model.optim.lr"]), first[0]["model.epic.num_prompts"]) == (1.5e-3, "4")
    shutil.copy(tmp_path / OUTPUT / "study.db", "plain.db")
    optuna.load_study(study_name="epic-pl", storage="sqlite:///plain.db").ask()  # as if killed
    shutil.copy("plain.db", tmp_path / OUTPUT / "study.db")
    assert call("tune", [*options, "--trials", "4"]) == 0
    rows = _rows(tmp_path / OUTPUT)
    assert rows[:2] == first
    assert [row["state"] for row in rows[2:]] == ["fail", "complete", "complete"]
    best = max(rows, key=lambda row: float(row["val/accuracy"] or -1))
    overlay = yaml.safe_load((tmp_path / OUTPUT / "best.yaml").read_text())
    assert overlay["model"]["optim"]["lr"] == pytest.approx(float(best["model.optim.lr"]))
    assert (tmp_path / OUTPUT / "search.png").stat().st_size > 1000
    assert not list((tmp_path / OUTPUT).rglob("*.ckpt"))
    assert "trial 3 of 4: val/accuracy" in capsys.readouterr().err
    configs = ["--config", config, "--config", f"{OUTPUT}/best.yaml"]
    fitted = run(["fit", *configs, "--trainer.fast_dev_run", "true"])
    assert fitted.model.hparams["optim"]["lr"] == overlay["model"]["optim"]["lr"]
    with pytest.raises(ConfigError, match="search of other options"):
        call("tune", [*options, "--model.epic.hub_width", "16"])


def test_a_pruned_trial_ends_at_that_validation(config, tmp_path):
    reported = []
    search = SimpleNamespace(monitor="val/loss", mode="min", keeps_best=True)
    watch = TrialWatch(
        search,
        SimpleNamespace(
            report=lambda *arguments: reported.append(arguments),
            should_prune=lambda: len(reported) == 2,
        ),
    )
    options = ["--config", config, "--trainer.max_epochs", "5", "--trainer.min_epochs", "4"]
    run_trial(options, tmp_path / "trial", watch)
    assert [step for _, step in reported] == [0, 1]
    best = min(value for value, _ in reported)
    assert (watch.pruned, watch.value, watch.validations) == (True, best, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trials", "0"], '"trials"'),
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


_FOREIGN = """
    insert into trials(number, study_id, state)
        values ((select count(*) from trials), 1, 'WAITING');
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
        "update study_user_attributes set value_json = '[1'",
        "delete from study_user_attributes",
        "update study_directions set direction = 'OTHER'",
        "update study_directions set direction = 'MINIMIZE'",
        "insert into study_directions(direction, study_id, objective) values ('MINIMIZE', 1, 1)",
        "update alembic_version set version_num = 'v99'",
        "update trials set state = 'OTHER'",
        "update trials set number = 7",
        "update trial_values set value = 'x'",
        "update trial_params set distribution_json = '[]'",
        "update trial_params set param_value = 55",  # outside of the space
        "drop table trial_values",
        _FOREIGN,
        _FOREIGN.replace("'WAITING'", "'COMPLETE'"),
    ],
)
def test_a_study_of_others_is_refused_and_sets_no_option(change, tmp_path, monkeypatch):
    ran = []

    def run_trial(options, folder, watch):
        ran.append(options)
        watch.value = 0.5

    monkeypatch.setattr(study, "run_trial", run_trial)
    space = {"model.optim.lr": FloatDistribution(1e-4, 1e-2, log=True)}
    parsed = {"seed_everything": 0, "trainer": {"max_epochs": 2}, "data": {}}
    search = Search((), parsed, space, "val/accuracy", "max", True, tmp_path)
    file = tmp_path / "study.db"
    if change != "create table studies (a int)":
        for trials in (1, 2):  # a search of our own is continued
            assert list(best_options(search, trials)) == ["model.optim.lr"]
    if isinstance(change, bytes):
        file.write_bytes(change)
    else:
        with contextlib.closing(sqlite3.connect(file)) as database:
            database.executescript(change)
    ran.clear()
    with pytest.raises(ConfigError, match="give --output another folder"):
        best_options(search, 4)
    assert not ran


@pytest.mark.parametrize("place", ["ask", "report", "tell"])
def test_a_trial_that_was_cut_off_is_done_again_with_the_same_options(
    config, tmp_path, monkeypatch, place
):
    def trial(options, folder, watch):
        watch._trial.report(0.5, 0)
        watch.value, watch.pruned = float(options[-1].rpartition("=")[2]), folder.name > "0000"

    def cut_off(owner, name):
        calls, method = [], getattr(owner, name)

        def once(*arguments, **options):
            result = method(*arguments, **options) if name == "ask" else None
            calls.append(name)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return result or method(*arguments, **options)

        monkeypatch.setattr(owner, name, once)

    monkeypatch.setattr(study, "run_trial", trial)
    options = ["--config", config, "--space", "space.yaml", "--trials", "4", "--output"]
    assert call("tune", [*options, "whole"]) == 0
    with monkeypatch.context() as monkeypatch:
        cut_off(optuna.Trial if place == "report" else optuna.Study, place)
        with pytest.raises(KeyboardInterrupt, match="continues the search"):
            call("tune", [*options, "cut"])
    assert call("tune", [*options, "cut"]) == 0
    whole, cut = _rows(tmp_path / "whole"), _rows(tmp_path / "cut")
    assert [row.pop("trial") for row in cut if row["state"] == "fail"] == ["2"]
    kept = [row for row in cut if row["state"] != "fail"]
    for row in (*whole, *kept):
        del row["trial"], row["seconds"]
    assert kept == whole
