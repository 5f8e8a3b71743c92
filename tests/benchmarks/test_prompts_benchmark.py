"""``benchmarks/prompts.py`` on a fabricated OpenMoji, and the control without wide products."""

import json

import pytest
import torch

import fine_tuning
import prompts
from controls.attention import AttentionEPIC
from epic_pl.experiments import runs
from epic_pl.nn.towers import FrozenState
from tolerance import assert_differ, assert_same


@pytest.mark.parametrize("side", ["image", "text"])
def test_prompts_of_the_control_read_by_attention_alone(side, make):
    module = make(method=AttentionEPIC(num_prompts=2, interaction_layers=1))
    tower = getattr(module.model, f"{side}_tower")
    inputs = tower.encoder.example(3, 6, torch.Generator().manual_seed(0))
    prompts = torch.randn(3, 2, tower.encoder.width)
    with torch.no_grad():
        state = tower.extract(inputs, None)
        _, attended = state.acquire(0, prompts)
        _, whole = FrozenState.acquire(state, 0, prompts)
        if side == "image":
            block = tower.encoder.model.blocks[-1]
            expected = attended + block.ls2(block.mlp(block.norm2(attended)))
        else:
            expected = tower.encoder.model.encoder.layer[-1].feed_forward_chunk(attended)
    assert_same(whole, expected)
    assert_differ(attended, whole)


@pytest.mark.slow
def test_settings_are_compared_and_nothing_is_repeated(on_openmoji, monkeypatch, capfd):
    monkeypatch.setattr(fine_tuning, "in_new_process", runs.in_new_process)
    some = [prompts.VARIANTS[0], prompts.VARIANTS[2], prompts.VARIANTS[5]]
    monkeypatch.setattr(prompts, "VARIANTS", some)
    arguments = ["--tasks", "openmoji", "--seeds", "2", "--jobs", "1", "--json", *on_openmoji]
    monkeypatch.setattr("sys.argv", ["prompts.py", *arguments])
    assert prompts.main() == 0
    printed = capfd.readouterr().out
    *rows, _, _, _ = json.loads(printed[printed.index("[\n") :])
    assert [row["setting"] for row in rows] == [variant.name for variant in some]
    assert all(row["runs"] == 2 and row["seconds"] > 0 for row in rows)
    assert (rows[0]["difference"], rows[0]["of its seconds"]) == (0, 1)
    monkeypatch.setattr(fine_tuning, "in_new_process", None)
    assert prompts.main() == 0
