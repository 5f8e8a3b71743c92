"""The options for speed through the Trainer: what is learnt and saved stays as it was."""

import shutil
from functools import partialmethod
from unittest.mock import Mock

import pytest
import setuptools  # noqa: F401 the compiler wants it, and late in a long run it fails to load
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.utils.data import DataLoader

import tiny_runs
from epic_pl.module import EPICModule
from epic_pl.module.compilation import check_compiler, is_compiled
from epic_pl.utils.errors import ConfigError
from tolerance import assert_same

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="torch.compile needs a C++ compiler, and neither g++ nor clang++ is installed",
)


def test_a_precision_that_the_device_lacks_is_refused_before_the_first_step(
    make, tmp_path, monkeypatch
):
    def refuse(precision, device):
        raise ConfigError(f"{precision} on {device}")

    monkeypatch.setattr("epic_pl.module.config.check_precision", refuse)
    module = make(encoders={"precision": "fp16"})
    for loop in ("fit", "test", "predict"):
        with pytest.raises(ConfigError, match="fp16 on cpu"):
            getattr(tiny_runs.trainer(tmp_path), loop)(module, tiny_runs.loader([]))


def _ragged(lengths):
    """Batches of four whose texts are as long as ``lengths`` say."""
    batches = []
    for seed, length in enumerate(lengths):
        batch = tiny_runs.batch(seed=seed)
        batch["input_ids"] = batch["input_ids"].repeat(1, 4)[:, :length]
        batches.append(batch | {"attention_mask": torch.ones_like(batch["input_ids"])})
    return DataLoader(batches, batch_size=None)


@pytest.mark.slow
@needs_compiler
def test_a_compiled_module_gives_the_same_and_no_graph_for_each_length(make, tmp_path, monkeypatch):
    options = {
        "options": {"prompt_attention": "read_only", "dropout": 0.0},
        "head": tiny_runs.HEAD | {"dropout": 0.0},
        "optim": {"lr": 1e-2},
        "loss": {"matched_classes": ["0"]},
    }
    # torch 2.10 leaves a hook behind where an export fails, as in other tests
    monkeypatch.setattr(nn.modules.module, "_global_buffer_registration_hooks", {})
    # its C++ takes minutes: here the graphs are run as they are
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    torch.manual_seed(0)
    plain = make(**options)
    compiled = make(compile=True, **options)
    compiled.load_state_dict(plain.state_dict())
    assert not is_compiled(compiled.model)
    rows = _ragged([6, 9, 13, 7, 11])
    torch._dynamo.reset()
    counters.clear()
    for module in (plain, compiled):
        tiny_runs.trainer(tmp_path, max_epochs=1).fit(module, rows)
    assert is_compiled(compiled.model)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 2  # the model's, and one to try the compiler
    after = tiny_runs.trained(plain)
    assert_same(tiny_runs.trained(compiled), after, trained=True)

    # a checkpoint of a compiled model fits one that is not
    module.trainer.save_checkpoint(tmp_path / "compiled.ckpt")
    again = EPICModule.load_from_checkpoint(tmp_path / "compiled.ckpt", compile=False)
    predicted = [tiny_runs.trainer(tmp_path).predict(m, rows) for m in (compiled, again)]
    for one, other in zip(*predicted, strict=True):
        assert_same(one["probabilities"], other["probabilities"])
    assert counters["stats"]["unique_graphs"] == 3  # one more, without gradient


def test_a_compiler_that_is_missing_is_told_with_the_way_out(monkeypatch):
    failure = RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nlong trace")
    monkeypatch.setattr(torch, "compile", lambda function: Mock(side_effect=failure))
    with pytest.raises(ConfigError) as error:
        check_compiler(torch.device("cpu"))
    for part in ("here: InvalidCxxCompiler: No working", "CXX", "model.compile to false"):
        assert part in str(error.value)
    assert "long trace" not in str(error.value)
