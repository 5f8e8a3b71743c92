"""A run that stopped anywhere and goes on ends with the very numbers of one that never stopped."""

import os
import random
import shutil
import signal

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, LambdaCallback

import tiny_runs
from epic_pl.module.callbacks import LastCheckpoint
from epic_pl.module.checkpoint import frozen_keys
from epic_pl.module.checkpoint_io import read_checkpoint
from epic_pl.module.postprocess import Postprocessor
from epic_pl.module.resume import rng_state, set_rng_state
from tiny_runs import differing

LIVELY = {"dropout": 0.3, "boundary": True, "similarity": True}
STEPS_PER_EPOCH = 3
EPOCHS = 2


class Diary(L.Callback):
    """Notes what each step saw: sample ids, learning rates, a hash of the augmented images."""

    def __init__(self):
        self.steps = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        rates = tuple(group["lr"] for group in trainer.optimizers[0].param_groups)
        pixels = float(batch["pixel_values"].double().sum())
        self.steps.append((trainer.current_epoch, tuple(batch["sample_id"]), rates, pixels))


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_vit_dir, tiny_tokenizer_dir):
    """Starts runs on one table, from a checkpoint or from the beginning."""
    root, encoders = tmp_path_factory.mktemp("resume"), (tiny_vit_dir, tiny_tokenizer_dir)
    table = tiny_runs.table(root / "data", train=4 * STEPS_PER_EPOCH - 1, val=3)

    def fit(
        ckpt_path=None,
        *,
        checkpoints=None,
        num_workers=0,
        accumulate=1,
        validate=1.0,
        diary=None,
        more=(),
        **options,
    ):
        L.seed_everything(0 if ckpt_path is None else 77)  # a resumed process starts elsewhere
        loading = {"augment": "randaugment", "num_workers": num_workers}
        data = tiny_runs.table_data(table, *encoders, batch_size_per_device=4, **loading)
        options = {"modality_dropout": 0.3, "head": LIVELY, "optim": {"lr": 1e-2}} | options
        model = tiny_runs.module(*encoders, **options)
        diary = diary or Diary()
        callbacks = [diary, *more]
        if checkpoints is not None:
            callbacks += [
                tiny_runs.every_step(checkpoints),
                tiny_runs.EveryBatch(checkpoints),
                tiny_runs.every_step(
                    checkpoints,
                    filename="epoch{epoch}",
                    every_n_train_steps=None,
                    save_on_train_epoch_end=True,
                ),
            ]
        trainer = tiny_runs.trainer(
            root,
            max_epochs=EPOCHS,
            callbacks=callbacks,
            enable_checkpointing=len(callbacks) > 1,
            gradient_clip_val=1.0,
            accumulate_grad_batches=accumulate,
            val_check_interval=validate,
        )
        trainer.fit(model, data, ckpt_path=ckpt_path, weights_only=True)
        return _end(model, trainer), diary.steps

    return fit


def _end(model, trainer):
    """All that training has changed: weights, running statistics, fits, optimiser, schedule."""
    (optimizer,) = trainer.optimizers
    frozen = frozen_keys(model)
    state = {key: v.clone() for key, v in model.state_dict().items() if key not in frozen}
    for index, moments in optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{index}.{key}": value for key, value in moments.items()}
    rates = [group["lr"] for group in optimizer.param_groups]
    state["rates"] = torch.tensor(rates, dtype=torch.float64)
    state["steps"] = torch.tensor([trainer.global_step, trainer.current_epoch])
    return state


@pytest.fixture(scope="module")
def straight(runs, tmp_path_factory):
    """The run that never stopped, with a checkpoint after every step and every epoch."""
    folder = tmp_path_factory.mktemp("checkpoints")
    end, steps = runs(checkpoints=folder)
    assert len(steps) == EPOCHS * STEPS_PER_EPOCH
    return end, steps, folder


def test_the_run_is_random_in_all_that_resume_must_keep(straight):
    _, steps, _ = straight
    first, second = steps[:STEPS_PER_EPOCH], steps[STEPS_PER_EPOCH:]
    assert [step[1] for step in first] != [step[1] for step in second]  # shuffled anew
    seen = {name for step in first for name in step[1]}
    assert seen == {f"train{number}" for number in range(11)}
    assert len({step[2] for step in steps}) == len(steps)  # every step has its own rates


def test_writing_checkpoints_changes_nothing(straight, runs):
    end, steps, _ = straight
    again, steps_again = runs()
    assert not differing(end, again)
    assert steps == steps_again


@pytest.mark.parametrize("name", ["step1", "epoch0", "step3", "step5"])
def test_resume_anywhere(name, straight, runs):
    end, steps, folder = straight
    resumed, rest = runs(str(folder / f"{name}.ckpt"))
    assert rest == steps[STEPS_PER_EPOCH if name == "epoch0" else int(name[-1]) :]
    assert not differing(end, resumed)


# which had read ahead of the checkpoint
def test_resume_with_loader_workers(straight, runs, tmp_path):
    end, steps, _ = straight
    _, with_workers = runs(more=[tiny_runs.every_step(tmp_path)], num_workers=1)
    assert with_workers == steps
    resumed, rest = runs(str(tmp_path / "step4.ckpt"), num_workers=1)
    assert rest == steps[4:]
    assert not differing(end, resumed)


def test_a_finished_run_has_nothing_left_to_do(straight, runs):
    end, _, folder = straight
    resumed, rest = runs(str(folder / "epoch1.ckpt"))
    assert rest == []
    assert set(differing(end, resumed)) <= {"rates", "steps"}


# saved at the end of the epoch that was cut short, and before at the validation that cut it
@pytest.mark.parametrize("name", ["last", "before"])
def test_a_run_that_stopped_early_does_not_go_on(name, runs, tmp_path):
    def fit(ckpt_path=None):
        early = EarlyStopping("val/loss", stopping_threshold=1e9)
        last, before = tmp_path / "last.ckpt", tmp_path / "before.ckpt"
        copy = LambdaCallback(on_train_epoch_end=lambda *_: shutil.copy(last, before))
        return runs(ckpt_path, validate=2, more=(early, copy, LastCheckpoint(str(tmp_path))))

    end, steps = fit()
    assert len(steps) == 2
    resumed, rest = fit(str(tmp_path / f"{name}.ckpt"))
    assert rest == []
    assert set(differing(end, resumed)) <= {"rates", "steps"}


@pytest.mark.parametrize(
    "options",
    [
        {"encoders": {"checkpoint_layers": True}},
        {"encoders": {"precision": "bf16"}, "options": {"prompt_attention": "read_only"}},
        {"method": "LateFusionMLP", "head": LIVELY},
        {"head": LIVELY | {"network": "wide"}, "class_frequencies": [0.8, 0.1, 0.1]},
    ],
    ids=str,
)
def test_resume_is_exact_with_every_option_of_the_steps(options, runs, tmp_path):
    end, steps = runs(more=[tiny_runs.every_step(tmp_path)], **options)
    resumed, rest = runs(str(tmp_path / "step4.ckpt"), **options)
    assert rest == steps[4:]
    assert not differing(end, resumed)


@pytest.fixture(scope="module")
def accumulated(runs, tmp_path_factory):
    """An undisturbed run that accumulates gradients, with a checkpoint after every batch."""
    folder = tmp_path_factory.mktemp("accumulated")
    end, steps = runs(checkpoints=folder, accumulate=2, validate=1)
    assert end["steps"].tolist() == [4, 2]
    return end, steps, folder


# half-accumulated gradients used to be lost
@pytest.mark.parametrize("name", ["batch1", "batch2", "batch3", "batch4", "validation4"])
def test_a_checkpoint_inside_an_accumulation_window_resumes_exactly(name, accumulated, runs):
    end, steps, folder = accumulated
    content, batch = read_checkpoint(str(folder / f"{name}.ckpt")), int(name[-1])
    (state,) = content["resume_states"]
    # windows of two batches, and of what is left at the end of an epoch of three
    assert bool(state["gradients"]) == (batch in (1, 4))
    resumed, rest = runs(str(folder / f"{name}.ckpt"), accumulate=2, validate=1)
    assert rest == steps[batch:]
    assert not differing(end, resumed)


class ToldToEnd(L.Callback):
    """Sends this process a signal in every batch, as a scheduler would."""

    def __init__(self, number):
        self.number = number

    def on_before_backward(self, *_):
        os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("validate", "number"),
    [(1, signal.SIGUSR1), pytest.param(2, signal.SIGTERM, marks=pytest.mark.slow)],
)
def test_a_run_that_is_told_to_end_in_every_batch_ends_as_if_undisturbed(
    validate, number, runs, tmp_path
):
    options = {"validate": validate, "accumulate": 2}
    end, steps = runs(**options)
    diary, last = Diary(), None
    for _ in range(EPOCHS * STEPS_PER_EPOCH):
        told = [LastCheckpoint(str(tmp_path)), ToldToEnd(number)]
        with pytest.raises(SystemExit) as left:
            runs(last, diary=diary, more=told, **options)
        assert left.value.code == 128 + number
        last = str(tmp_path / "last.ckpt")
    resumed, _ = runs(last, diary=diary, **options)
    assert diary.steps == steps
    assert not differing(end, resumed)


@pytest.mark.parametrize("validation", [2, 3])  # within an epoch, and at its end
def test_a_kill_while_the_postprocessor_is_fitted_costs_the_batch_alone(validation, runs, tmp_path):
    end, steps = runs(validate=1)
    child = os.fork()
    if not child:
        fitted, fit = [], Postprocessor.fit

        def killed(self, *outputs):
            fit(self, *outputs)
            fitted.append(self)
            if len(fitted) == validation:
                os.kill(os.getpid(), signal.SIGKILL)

        Postprocessor.fit = killed
        try:
            runs(validate=1, more=(LastCheckpoint(str(tmp_path)),))
        finally:
            os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    resumed, rest = runs(str(tmp_path / "last.ckpt"), validate=1)
    assert rest == steps[validation - 1 :]
    assert not differing(end, resumed)


def draw():
    # an odd number of normals: each generator then keeps the second of a pair for later
    return (
        [random.random(), random.gauss(0, 1)],
        [*np.random.rand(3), np.random.standard_normal()],  # noqa: NPY002
        [*torch.rand(3).tolist(), torch.randn(1).item(), torch.randperm(5).tolist()],
    )


def test_the_same_numbers_after_a_round_trip_through_a_file_without_code(tmp_path):
    draw()
    torch.save(rng_state(), tmp_path / "rng.pt")
    first = draw()
    assert draw() != first
    set_rng_state(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert draw() == first


def test_a_gpus_state_is_left_out_where_there_is_none(monkeypatch):
    given = []
    state = rng_state() | {"cuda": [torch.tensor([7])]}
    monkeypatch.setattr(torch.cuda, "set_rng_state", given.append)
    for available in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        set_rng_state(state)
    assert given == [torch.tensor([7])]
