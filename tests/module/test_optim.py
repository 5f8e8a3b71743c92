import itertools
import math

import pytest
import torch

from epic_pl.module.config import OptimConfig
from epic_pl.module.optim import build_optimizer, parameter_groups, warmup_cosine
from epic_pl.nn.methods import METHODS

CONFIG = OptimConfig(lr=1e-2, prompt_lr=1e-3, weight_decay=0.05)


def _by_name(model, key):
    """A setting of each trained tensor's group."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, CONFIG)
    return {names[id(p)]: group[key] for group in groups for p in group["params"]}


@pytest.mark.parametrize(
    "options",
    [
        *({"method": name} for name in METHODS),
        {"epic": {"first_prompt": "from_text", "generation": "linear"}},
        {"epic": {"hub": "parameter_free", "prompt_attention": "read_only"}},
        {"head": {"boundary": True, "similarity": True}},
    ],
    ids=str,
)
def test_every_trained_tensor_is_in_one_group(options, make):
    model = make(**options).model
    optimizer = build_optimizer(model, CONFIG)
    assert type(optimizer) is torch.optim.AdamW
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters() if p.requires_grad}
    names = [group["name"] for group in optimizer.param_groups]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("first_prompt", ["independent", "from_text"])
def test_matrices_decay_and_the_head_has_a_rate_of_its_own(first_prompt, make):
    head = {"similarity": True}
    model = make(epic={"first_prompt": first_prompt, "interaction_layers": 3}, head=head).model
    decays, rates = _by_name(model, "weight_decay"), _by_name(model, "lr")
    matrices = {
        f"hubs.{hub}.{way}_{side}.weight"
        for hub, way, side in itertools.product((0, 1), ("down", "up"), ("image", "text"))
    }
    matrices |= {"head.classifier.weight", "head.similarity.linear.weight"}
    matrices |= {f"head.similarity.down_{side}.weight" for side in ("image", "text")}
    if first_prompt == "from_text":
        matrices.add("prompts.coupling.weight")
    assert {name for name, decay in decays.items() if decay} == matrices
    assert set(decays.values()) == {0, 0.05}
    for name, rate in rates.items():
        assert rate == (1e-2 if name.startswith("head.") else 1e-3)


def test_encoders_that_are_trained_learn_at_their_methods_rate(make):
    rates = _by_name(make(method="full", method_options={"encoder_lr": 3e-5}).model, "lr")
    inside = {name for name in rates if "_tower.encoder." in name}
    assert inside
    assert {rates[name] for name in inside} == {3e-5}
    assert {rates[name] for name in set(rates) - inside} == {1e-2}


def test_prompts_learn_at_the_heads_rate_unless_told(make):
    groups = parameter_groups(make().model, OptimConfig(lr=0.1))
    assert {group["lr"] for group in groups} == {0.1}


@pytest.mark.parametrize(
    ("total", "warmup", "expected"),
    [
        # never zero: the first step must train; past the end it stays down
        (110, 0.1, {0: 1 / 12, 4: 5 / 12, 10: 11 / 12, 11: 1.0, 110: 0.0, 200: 0.0}),
        (100, 0.0, {0: 1.0, 25: 0.5 * (1 + math.sqrt(0.5))}),
        (math.inf, 0.1, {0: 1.0, 5: 1.0, 10**9: 1.0}),
    ],
)
def test_known_points_of_the_schedule(total, warmup, expected):
    for step, factor in expected.items():
        assert warmup_cosine(step, total, warmup) == pytest.approx(factor, abs=1e-12)


def test_the_rate_rises_then_falls_along_a_half_cosine():
    factors = [warmup_cosine(step, 50, 0.16) for step in range(51)]
    assert factors[:9] == sorted(factors[:9])
    assert factors[8:] == sorted(factors[8:], reverse=True)
    assert all(0 <= factor <= 1 for factor in factors)


@pytest.mark.parametrize("total", [0, 1, 5])
def test_a_training_that_is_all_warmup(total):
    assert all(0 <= warmup_cosine(step, total, 1.0) <= 1 for step in range(20))
