"""Every method of the registry through the real Trainer and the real command line."""

from argparse import ArgumentError
from functools import partial
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from tiny_models import METHODS

import tiny_runs
from epic_pl.module import EPICModule
from epic_pl.module.checkpoint_io import read_checkpoint
from epic_pl.run.epic_cli import run
from tiny_runs import differing, trained

methods = pytest.mark.parametrize("name", METHODS)


@pytest.fixture
def workshop(tiny_vit_dir, tiny_tokenizer_dir, tmp_path):
    """A table of coloured squares, and what trains a method on it."""
    table = tiny_runs.table(tmp_path, train=8, val=3, test=5)

    encoders = tiny_vit_dir, tiny_tokenizer_dir
    data = partial(tiny_runs.table_data, table, *encoders, batch_size_per_device=3)

    def module(name, **options):
        torch.manual_seed(0)
        return tiny_runs.module(*encoders, method=name, **options)

    def trainer(*callbacks, **options):
        return tiny_runs.trainer(tmp_path, callbacks=list(callbacks), **options)

    return SimpleNamespace(root=tmp_path, data=data, module=module, trainer=trainer)


@methods
def test_resume_in_the_middle_of_an_epoch_equals_the_run_that_never_stopped(name, workshop):
    def fit(ckpt_path=None):
        L.seed_everything(0 if ckpt_path is None else 77, verbose=False)
        module = workshop.module(name, modality_dropout=0.5, optim={"lr": 1e-2})
        keep = [] if ckpt_path else [tiny_runs.every_step(workshop.root / "steps")]
        trainer = workshop.trainer(*keep, max_epochs=2, enable_checkpointing=bool(keep))
        trainer.fit(module, workshop.data(), ckpt_path=ckpt_path, weights_only=True)
        assert trainer.global_step == 6
        return trained(module)

    straight = fit()
    resumed = fit(str(workshop.root / "steps" / "step2.ckpt"))
    assert not differing(straight, resumed)
    early = read_checkpoint(str(workshop.root / "steps" / "step2.ckpt"))["state_dict"]
    # enough samples miss a modality for its embedding to learn as well
    assert differing(straight, {key: early[key] for key in straight}) == [*straight]


@methods
def test_mixed_precision_trains_with_clipped_gradients(name, workshop):
    module = workshop.module(name, optim={"lr": 1e-2}, modality_dropout=0.5)
    before = trained(module)
    trainer = workshop.trainer(max_epochs=2, precision="bf16-mixed", gradient_clip_val=1.0)
    trainer.fit(module, workshop.data())
    assert differing(before, trained(module)) == [*before]
    assert all(bool(value.isfinite().all()) for value in trained(module).values())


def test_a_methods_own_options_come_from_the_command_line_and_the_checkpoint(config, workdir):
    options = ["--config", config, "--trainer.max_epochs", "1"]
    lora = ["--model.method=LoRA", "--model.method.rank=3", "--model.method.encoder_lr=0.01"]
    cli = run(["fit", *options, *lora])
    assert cli.model.model.method.rank == 3
    (group,) = (g for g in cli.trainer.optimizers[0].param_groups if g["name"] == "encoders")
    assert group["initial_lr"] == 0.01
    (best,) = workdir.rglob("last.ckpt")
    assert EPICModule.load_from_checkpoint(best).model.method.rank == 3
    with pytest.raises(ArgumentError, match=r"(?s)Lorra.*mean 'LoRA'"):
        run(["fit", *options, "--model.method", "Lorra"])
