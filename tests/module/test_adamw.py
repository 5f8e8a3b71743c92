import copy

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

import tiny_runs
from epic_pl.errors import ConfigError
from epic_pl.module.adamw import build_adamw


def _groups():
    torch.manual_seed(0)
    layer = nn.Linear(5, 3)
    return layer, [
        {"params": [layer.weight], "lr": 0.1, "weight_decay": 0.5},
        {"params": [layer.bias], "lr": 0.01, "weight_decay": 0.0},
    ]


def _steps(layer, optimizer, start=0, stop=4):
    for step in range(start, stop):
        torch.manual_seed(step)
        layer(torch.randn(8, 5)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.cat([layer.weight.detach().flatten(), layer.bias.detach()])


def test_fused_steps_are_those_of_plain_adamw():
    layer, groups = _groups()
    fused = build_adamw(groups, None)
    assert all(group["fused"] for group in fused.param_groups)
    other, groups = _groups()
    plain = build_adamw(groups, False)
    assert not any(group["fused"] for group in plain.param_groups)
    torch.testing.assert_close(_steps(layer, fused), _steps(other, plain))


@pytest.mark.parametrize(("before", "after"), [(True, False), (False, True), (True, True)])
def test_a_state_is_taken_up_with_the_own_kernel(before, after):
    layer, groups = _groups()
    optimizer = build_adamw(groups, before)
    _steps(layer, optimizer, 0, 2)
    other, groups = _groups()
    resumed = build_adamw(groups, after)
    other.load_state_dict(layer.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert all(bool(group["fused"]) == after for group in resumed.param_groups)
    assert [group["lr"] for group in resumed.param_groups] == [0.1, 0.01]
    end, straight = _steps(other, resumed, 2), _steps(layer, optimizer, 2)
    if before == after:
        assert torch.equal(end, straight)
    torch.testing.assert_close(end, straight)


def test_where_there_is_no_kernel_it_is_left_out_unless_asked_for():
    parameter = nn.Parameter(torch.ones(3, dtype=torch.complex64))  # no kernel for these
    assert not build_adamw([{"params": [parameter]}], None).defaults["fused"]
    with pytest.raises(ConfigError, match=r"fused is on.*leave model\.fused empty"):
        build_adamw([{"params": [parameter]}], True)


@pytest.fixture
def fit(tiny_vit_dir, tiny_tokenizer_dir, tmp_path):
    def run(fused, **options):
        module = tiny_runs.module(tiny_vit_dir, tiny_tokenizer_dir, fused=fused, lr=1e-2)
        trainer = tiny_runs.trainer(tmp_path, max_epochs=1, **options)
        before = module.model.head.linear.bias.detach().clone()
        trainer.fit(module, tiny_runs.loader(tiny_runs.samples()))
        moved = (module.model.head.linear.bias.detach() - before).abs().max()
        return trainer.optimizers[0].defaults["fused"], moved

    return run


def _plugin(precision):
    # Lightning takes 16-mixed on the CPU only with a scaler given
    scaler = torch.amp.GradScaler("cpu") if precision == "16-mixed" else None
    return MixedPrecision(precision, "cpu", scaler)


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_under_mixed_precision_what_clips_is_not_fused(precision, fit):
    assert not fit(None, plugins=[_plugin(precision)], gradient_clip_val=1.0)[0]
    assert fit(None, plugins=[_plugin(precision)])[0]
    with pytest.raises(ConfigError, match=r"trainer\.gradient_clip_val to null"):
        fit(True, plugins=[_plugin(precision)], gradient_clip_val=1.0)


@pytest.mark.parametrize("fused", [True, False])
def test_gradients_are_clipped_for_either_kernel_without_mixed_precision(fused, fit):
    used, moved = fit(fused, gradient_clip_val=1e-20)
    assert bool(used) == fused
    assert moved < 1e-6
    assert fit(fused)[1] > 1e-4
