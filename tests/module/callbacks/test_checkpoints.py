"""When the latest state is saved, and what happens on a signal."""

import os
import signal
import stat

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint

import tiny_runs
from epic_pl.module.callbacks import BestCheckpoint, LastCheckpoint, checkpoints
from epic_pl.utils.errors import ConfigError


class Saves(L.Callback):
    """Notes the step of each checkpoint."""

    def __init__(self):
        self.steps = []

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        self.steps.append(checkpoint["global_step"])


@pytest.fixture
def fit(make, tmp_path):
    """Two epochs of three steps, validated after each."""

    def fit(*callbacks, **options):
        saves, rows = Saves(), tiny_runs.samples(12)
        options = {"max_epochs": 2, "enable_checkpointing": True} | options
        trainer = tiny_runs.trainer(tmp_path, callbacks=[saves, *callbacks], **options)
        trainer.fit(make(), tiny_runs.loader(rows), tiny_runs.loader(rows[:4]))
        return saves.steps

    return fit


@pytest.mark.parametrize(
    ("steps", "options", "expected"),
    [
        (None, {}, [3, 6]),
        (1, {}, [1, 2, 3, 4, 5, 6]),
        (2, {}, [2, 3, 4, 6]),
        (3, {}, [3, 6]),
        (None, {"val_check_interval": 2}, [2, 3, 5, 6]),
        (None, {"check_val_every_n_epoch": 2}, [3, 6]),
        (None, {"max_steps": 4}, [3, 4]),
        (1, {"fast_dev_run": True}, []),
    ],
)
def test_when_it_saves(steps, options, expected, fit, tmp_path):
    assert fit(LastCheckpoint(str(tmp_path), steps), **options) == expected
    steps = [torch.load(path, weights_only=True)["global_step"] for path in tmp_path.glob("*.ckpt")]
    assert steps == expected[-1:]


def test_it_saves_by_the_clock(fit, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_INTERVAL", -1)
    assert fit(LastCheckpoint(str(tmp_path))) == [1, 2, 3, 4, 5, 6]


def test_it_stands_beside_other_checkpoints(fit, tmp_path):
    best = ModelCheckpoint(tmp_path / "kept", filename="best")
    fit(LastCheckpoint(), best)
    names = {"best.ckpt", "last.ckpt"}
    assert {path.name for path in (tmp_path / "kept").iterdir()} == names
    with pytest.raises(ConfigError, match="every_n_train_steps"):
        LastCheckpoint(every_n_train_steps=0)


@pytest.mark.parametrize(("kept", "epochs"), [(1, []), (-1, [0, 1])])
def test_without_a_metric_no_epoch_is_kept_unless_all_are(kept, epochs, fit, tmp_path):
    fit(BestCheckpoint(tmp_path / "kept", filename="{epoch}", save_top_k=kept))
    names = [f"epoch={number}.ckpt" for number in epochs]
    assert sorted(path.name for path in tmp_path.glob("kept/*")) == names


class Kill(L.Callback):
    def __init__(self, number):
        self.number = number

    def on_validation_start(self, trainer, pl_module):  # that before training
        if trainer.sanity_checking:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("number", "variables", "requeued"),
    [
        (signal.SIGUSR1, {"SLURM_JOB_ID": "12"}, "requeue 12\n"),
        (
            signal.SIGUSR1,
            {"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "11", "SLURM_ARRAY_TASK_ID": "3"},
            "requeue 11_3\n",
        ),
        (signal.SIGUSR1, {}, None),
        (signal.SIGTERM, {"SLURM_JOB_ID": "12"}, None),
    ],
)
def test_sigusr1_requeues_a_slurm_job(number, variables, requeued, fit, tmp_path, monkeypatch):
    tool = tmp_path / "scontrol"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    tool.chmod(tool.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as left:
        fit(LastCheckpoint(str(tmp_path)), Kill(number))
    assert left.value.code == 128 + number
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 1
    asked = tmp_path / "asked"
    assert (asked.read_text() if asked.exists() else None) == requeued
    assert signal.getsignal(number) == before


def test_a_job_that_cannot_be_requeued_is_told(fit, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("PATH", str(tmp_path))
    told = pytest.warns(UserWarning, match="SLURM job 12 could not be requeued")
    with told, pytest.raises(SystemExit):
        fit(LastCheckpoint(str(tmp_path)), Kill(signal.SIGUSR1))
    assert (tmp_path / "last.ckpt").is_file()


@pytest.mark.parametrize("kind", [BestCheckpoint, LastCheckpoint])
def test_a_folder_that_cannot_be_written_to_is_refused_before_training(kind, fit, tmp_path):
    (tmp_path / "file").touch()
    started = []
    watch = LambdaCallback(on_train_start=lambda *_: started.append(1))
    with pytest.raises(ConfigError, match=r"checkpoint\.dirpath: .*\.ckpt cannot be written to"):
        fit(kind(dirpath=str(tmp_path / "file" / "kept")), watch)
    assert not started
