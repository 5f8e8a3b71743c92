"""The average of weights: what is validated, saved, resumed and left."""

from functools import partial

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import tiny_runs
from epic_pl.callbacks import WeightAverage
from epic_pl.errors import ConfigError
from epic_pl.module import EPICModule
from epic_pl.module.checkpoint import read_checkpoint
from tiny_runs import differing, trained

DECAY = 0.6


def _reference(history, decay=DECAY):
    """The average of weights ``history``, the start first, as a weighted sum written out."""
    kept = [min(decay, (1 + t) / (10 + t)) for t in range(len(history) - 1)]
    average = {}
    for name in history[0]:
        total = history[0][name].double()
        for step, weights in enumerate(history[1:]):
            total = kept[step] * total + (1 - kept[step]) * weights[name].double()
        average[name] = total.float()
    return average


class Diary(L.Callback):
    """Notes the weights after each step of the optimiser, and those that validation sees."""

    def __init__(self):
        self.steps, self.validated = [], []

    def on_train_start(self, trainer, pl_module):
        self.steps.append(trained(pl_module))
        self.at = trainer.global_step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step != self.at:
            self.at = trainer.global_step
            self.steps.append(trained(pl_module))

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.validated.append((trainer.global_step, trained(pl_module)))


@pytest.fixture(scope="module")
def make(make):
    """A module with the same start each time, of dropout too."""

    def build(**options):
        torch.manual_seed(0)
        return make(optim={"lr": 1e-2, "prompt_lr": 1e-2}, **options)

    return build


def _fit(root, module, *callbacks, decay=DECAY, epochs=2, ckpt_path=None, **options):
    callbacks = [WeightAverage(decay), *callbacks]
    options["enable_checkpointing"] = any(isinstance(each, ModelCheckpoint) for each in callbacks)
    trainer = tiny_runs.trainer(root, max_epochs=epochs, callbacks=callbacks, **options)
    loaders = [tiny_runs.loader(tiny_runs.samples(count)) for count in (16, 4)]
    trainer.fit(module, *loaders, ckpt_path=ckpt_path, weights_only=True)
    return trainer


@pytest.fixture
def fit(tmp_path):
    return partial(_fit, tmp_path)


@pytest.fixture(scope="module")
def straight(make, tmp_path_factory):
    """A run of two epochs with averages: its diary, module, trainer and checkpoints' folder."""
    folder, diary, module = tmp_path_factory.mktemp("straight"), Diary(), make()
    keep = tiny_runs.every_step(folder)
    # writes last.ckpt as training ends, after the average was put into the module
    last = ModelCheckpoint(folder, save_last=True, every_n_epochs=9)
    trainer = _fit(folder, module, diary, keep, last)
    diary.end = trained(module)
    return diary, module, trainer, folder


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(ConfigError, match=rf"ema\.decay is {decay}"):
        WeightAverage(decay)


# Lightning writes such checkpoints without asking callbacks: they would hold the weights
def test_checkpoints_of_weights_only_are_refused(make, fit, tmp_path):
    only = ModelCheckpoint(tmp_path, save_weights_only=True)
    with pytest.raises(ConfigError, match="save_weights_only to false"):
        fit(make(), only)
    fit(make(), only, decay=0.0, epochs=1)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_validation_sees_the_averages_and_training_goes_on_from_the_weights(accumulate, make, fit):
    with_average, plain = Diary(), Diary()
    for diary, decay in ((plain, 0.0), (with_average, DECAY)):
        module = make()
        options = {"accumulate_grad_batches": accumulate, "val_check_interval": 2}
        trainer = fit(module, diary, decay=decay, **options)
        diary.end = trained(module)
    assert len(plain.steps) == len(with_average.steps) == 8 // accumulate + 1
    for one, other in zip(plain.steps, with_average.steps, strict=True):
        assert not differing(one, other)
    seen = [step for step, _ in with_average.validated]
    assert seen == [0, *(number // accumulate for number in (2, 4, 6, 8))]  # 0: sanity check
    for step, validated in with_average.validated:
        torch.testing.assert_close(validated, _reference(plain.steps[: step + 1]))
    assert differing(with_average.validated[-1][1], plain.validated[-1][1])
    # what is left in memory is what was validated last
    assert not differing(with_average.end, with_average.validated[-1][1])
    trainer.validate(module, trainer.val_dataloaders, verbose=False)
    assert not differing(diary.end, trained(module))
    assert not differing(plain.end, plain.steps[-1])


def test_low_precision_weights_have_an_average_that_moves():
    module = torch.nn.Linear(1, 1, bias=False).bfloat16()
    torch.nn.init.constant_(module.weight, 1.0)
    average = WeightAverage(0.9999)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    average.on_train_start(trainer, module)
    average._steps = 10**6
    torch.nn.init.constant_(module.weight, 1.0078125)  # the next number that bfloat16 has
    for _ in range(100):
        average._seen_step = -1
        average.on_train_batch_end(trainer, module)
    assert 1 < average._average["weight"].item() < 1.001
    average.on_train_end(trainer, module)
    assert module.weight.dtype == torch.bfloat16


def test_a_checkpoint_holds_and_predicts_with_its_steps_averages(straight, make, tmp_path):
    diary, _, _, folder = straight
    content = read_checkpoint(str(folder / "step3.ckpt"))
    average = _reference(diary.steps[:4])
    saved = {key: content["state_dict"][key] for key in average}
    torch.testing.assert_close(saved, average)
    assert not differing(content["weight_average"]["raw"], diary.steps[3])

    loaded = EPICModule.load_from_checkpoint(folder / "step3.ckpt")
    assert not differing(trained(loaded), saved)
    rows, module = tiny_runs.loader(tiny_runs.samples(4, seed=3)), make()
    (expected,) = tiny_runs.trainer(tmp_path).predict(loaded, rows)
    trainer = tiny_runs.trainer(tmp_path, callbacks=[WeightAverage(DECAY)])
    (predicted,) = trainer.predict(module, rows, ckpt_path=folder / "step3.ckpt", weights_only=True)
    assert torch.equal(predicted["probabilities"], expected["probabilities"])
    # nothing of that checkpoint is left for a fit that the same trainer does next
    again = Diary()
    trainer.callbacks.append(again)
    trainer.fit_loop.max_epochs = 1
    trainer.fit(make(), tiny_runs.loader(tiny_runs.samples(8)))
    assert not differing(again.steps[0], trained(make()))


def test_a_warm_start_and_another_fit_begin_with_the_averages(straight, make, fit, tmp_path):
    diary, _, trainer, _ = straight
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    average = _reference(diary.steps)
    torch.testing.assert_close(diary.end, average)
    assert not differing(trained(make(warm_start=str(tmp_path / "end.ckpt"))), diary.end)
    started = EPICModule.load_from_checkpoint(tmp_path / "end.ckpt")
    again = Diary()
    fit(started, again, epochs=1)
    assert not differing(again.steps[0], diary.end)
    torch.testing.assert_close(trained(started), _reference(again.steps))


# that the whole resumed run is bit-identical is in module/test_resume.py
def test_resume_takes_up_the_weights_and_the_averages(straight, make, fit):
    diary, _, _, folder = straight
    rest, module = Diary(), make()
    fit(module, rest, ckpt_path=folder / "step4.ckpt")
    assert not differing(rest.steps[0], diary.steps[4])
    history = [*diary.steps[:4], *rest.steps]
    torch.testing.assert_close(trained(module), _reference(history))
    plain = Diary()  # without averages it goes on from them
    fit(make(), plain, decay=0.0, ckpt_path=folder / "step4.ckpt")
    torch.testing.assert_close(plain.steps[0], _reference(diary.steps[:5]))


# it used to leave the raw weights there
def test_resuming_a_finished_run_leaves_the_average_in_the_module(straight, make, fit):
    diary, _, _, folder = straight
    module, rest = make(), Diary()
    trainer = fit(module, rest, ckpt_path=folder / "last.ckpt")
    assert rest.steps == []
    assert trainer.current_epoch == 2
    assert not differing(trained(module), diary.end)
    content = read_checkpoint(str(folder / "last.ckpt"))
    assert not differing(content["weight_average"]["raw"], diary.steps[-1])


def test_a_resume_from_a_run_without_averages_starts_them_there(make, fit, tmp_path):
    plain, diary, module = Diary(), Diary(), make()
    fit(make(), plain, tiny_runs.every_step(tmp_path), decay=0.0)
    fit(module, diary, ckpt_path=tmp_path / "step4.ckpt")
    assert not differing(diary.steps[0], plain.steps[4])
    torch.testing.assert_close(trained(module), _reference(diary.steps))
