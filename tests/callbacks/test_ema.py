import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

import tiny_runs
from epic_pl.errors import ConfigError
from epic_pl.module import EPICModule
from epic_pl.module.checkpoint import read_checkpoint
from epic_pl.module.ema import WeightAverage

DECAY = 0.6


@pytest.fixture
def make(tiny_vit_dir, tiny_tokenizer_dir):
    def build(**options):
        options = {"ema_decay": DECAY, "lr": 1e-2, "prompt_lr": 1e-2, **options}
        return tiny_runs.module(tiny_vit_dir, tiny_tokenizer_dir, **options)

    return build


def _trained(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def _without_fit(state):
    on_validation = {"calibration_temperature", "model.interaction_weight"}
    assert on_validation < set(state)
    return {key: value for key, value in state.items() if key not in on_validation}


def _differing(one, other):
    assert one.keys() == other.keys()
    return [key for key in one if not torch.equal(one[key], other[key])]


def _reference(history, decay):
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
        self.steps.append(_trained(pl_module))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == len(self.steps):
            self.steps.append(_trained(pl_module))

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        self.validated.append((trainer.global_step, _trained(pl_module)))


@pytest.fixture
def fit(tmp_path):
    def run(module, *callbacks, epochs=2, ckpt_path=None, **options):
        trainer = tiny_runs.trainer(
            tmp_path, max_epochs=epochs, callbacks=list(callbacks), **options
        )
        rows = tiny_runs.samples(16)
        trainer.fit(
            module,
            tiny_runs.loader(rows),
            tiny_runs.loader(rows[:4]),
            ckpt_path=ckpt_path,
            weights_only=True,
        )
        return trainer

    return run


def test_the_decay_warms_up():
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    average, expected = WeightAverage(module, 0.3), 0.0
    for step in range(12):
        nn.init.constant_(module.weight, step + 1.0)
        average.update()
        # 1/10, 2/11, 3/12, 4/13 and then 0.3
        kept = [1 / 10, 2 / 11, 3 / 12][step] if step < 3 else 0.3
        expected = kept * expected + (1 - kept) * (step + 1)
        assert average.averaged(module.state_dict())["weight"].item() == pytest.approx(expected)


def test_what_is_frozen_or_no_parameter_is_left_alone():
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    module[0].weight.requires_grad_(False)
    average = WeightAverage(module, 0.5)
    assert set(average.state_dict()["average"]) == {"0.bias", "1.weight", "1.bias"}
    state = module.state_dict()
    assert average.averaged(state)["1.running_mean"] is state["1.running_mean"]


def test_low_precision_weights_have_an_average_that_moves():
    module = nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.constant_(module.weight, 1.0)
    average = WeightAverage(module, 0.9999)
    average.steps = 10**6
    nn.init.constant_(module.weight, 1.0078125)  # the next number that bfloat16 has
    for _ in range(100):
        average.update()
    assert 1 < average.state_dict()["average"]["weight"].item() < 1.001
    average.show()
    assert module.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_a_decay_that_is_none_is_refused(decay, make):
    with pytest.raises(ConfigError, match=f"ema_decay is {decay}"):
        make(ema_decay=decay)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_validation_sees_the_averages_and_training_goes_on_from_the_weights(accumulate, make, fit):
    start = make()
    with_average, plain = Diary(), Diary()
    for diary, decay in ((with_average, DECAY), (plain, 0.0)):
        module = make(ema_decay=decay)
        module.load_state_dict(start.state_dict())
        torch.manual_seed(0)  # of dropout
        fit(module, diary, accumulate_grad_batches=accumulate, val_check_interval=2)
        diary.end = _trained(module)
    assert len(plain.steps) == len(with_average.steps) == 8 // accumulate + 1
    for one, other in zip(plain.steps, with_average.steps, strict=True):
        assert not _differing(one, other)
    seen = [step for step, _ in with_average.validated]
    assert seen == [0, *(number // accumulate for number in (2, 4, 6, 8))]  # 0: sanity check
    for step, validated in with_average.validated:
        torch.testing.assert_close(validated, _reference(plain.steps[: step + 1], DECAY))
    assert _differing(with_average.validated[-1][1], plain.validated[-1][1])
    # what is left in memory is what was validated last
    assert not _differing(with_average.end, with_average.validated[-1][1])
    assert not _differing(plain.end, plain.steps[-1])


def _every_step(folder):
    return ModelCheckpoint(
        folder, "step{step}", every_n_train_steps=1, save_top_k=-1, auto_insert_metric_name=False
    )


def test_a_checkpoint_holds_the_averages_of_its_step_and_predicts_with_them(make, fit, tmp_path):
    diary = Diary()
    module = make()
    fit(module, diary, _every_step(tmp_path), enable_checkpointing=True)
    content = read_checkpoint(str(tmp_path / "step3.ckpt"))
    average = _reference(diary.steps[:4], DECAY)
    saved = _without_fit(content["state_dict"])
    torch.testing.assert_close(saved, average)
    assert not _differing(content["weight_average"]["raw"], diary.steps[3])

    loaded = EPICModule.load_from_checkpoint(tmp_path / "step3.ckpt")
    torch.testing.assert_close(_trained(loaded), average)
    reference = make(ema_decay=0.0)
    reference.load_state_dict(reference.state_dict() | average)
    rows = tiny_runs.loader(tiny_runs.samples(4, seed=3))
    (expected,) = tiny_runs.trainer(tmp_path).predict(reference, rows)
    (predicted,) = tiny_runs.trainer(tmp_path).predict(
        module, rows, ckpt_path=tmp_path / "step3.ckpt", weights_only=True
    )
    torch.testing.assert_close(predicted["probabilities"], expected["probabilities"])
    torch.testing.assert_close(_trained(module), average)


def test_a_warm_start_and_another_fit_begin_with_the_averages(make, fit, tmp_path):
    diary, module = Diary(), make()
    trainer = fit(module, diary)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    average = _reference(diary.steps, DECAY)
    torch.testing.assert_close(_trained(make(warm_start=str(tmp_path / "end.ckpt"))), average)
    for started in (EPICModule.load_from_checkpoint(tmp_path / "end.ckpt"), module):
        again = Diary()
        fit(started, again, epochs=1)
        torch.testing.assert_close(again.steps[0], average)
        torch.testing.assert_close(_trained(started), _reference(again.steps, DECAY))


@pytest.mark.parametrize("decay", [DECAY, 0.0])
def test_resume_takes_up_the_weights_and_the_averages_if_they_are_wanted(
    decay, make, fit, tmp_path
):
    diary, rest = Diary(), Diary()
    fit(make(), diary, _every_step(tmp_path), enable_checkpointing=True)
    module = make(ema_decay=decay)
    fit(module, rest, ckpt_path=tmp_path / "step4.ckpt")
    assert not _differing(rest.steps[0], diary.steps[4])
    content = read_checkpoint(str(tmp_path / "step4.ckpt"))
    assert content["weight_average"]["steps"] == 4
    if not decay:
        assert module._average is None


def test_a_resume_from_a_run_without_averages_starts_them_there(make, fit, tmp_path):
    fit(make(ema_decay=0.0), _every_step(tmp_path), enable_checkpointing=True)
    diary = Diary()
    module = make()
    fit(module, diary, ckpt_path=tmp_path / "step4.ckpt")
    weights = _without_fit(read_checkpoint(str(tmp_path / "step4.ckpt"))["state_dict"])
    assert not _differing(diary.steps[0], weights)
    assert module._average.steps == 4
