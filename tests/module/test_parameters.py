import io
import itertools

import pytest
import torch
from rich.console import Console

from epic_pl.module.parameters import (
    count_parameters,
    parameter_groups,
    parameter_table,
    trainable_share,
)
from epic_pl.nn import EPIC, EPICConfig
from epic_pl.nn.encoders import build_image_encoder, build_text_encoder

LR, PROMPT_LR, DECAY = 1e-2, 1e-3, 0.05


@pytest.fixture
def make_epic(tiny_vit_dir, tiny_tokenizer_dir):
    def make(**switches):
        encoders = (
            build_image_encoder(str(tiny_vit_dir)),
            build_text_encoder(str(tiny_tokenizer_dir)),
        )
        return EPIC(
            *encoders, 4, EPICConfig(**{"interaction_layers": 3, "hub_width": 8, **switches})
        )

    return make


@pytest.mark.parametrize(
    "switches",
    [{}, {"first_prompt": "from_text"}, {"interaction": "none"}, {"share_hub": True}],
    ids=str,
)
def test_every_trained_tensor_is_in_one_group(make_epic, switches):
    model = make_epic(**switches)
    groups = parameter_groups(model, LR, PROMPT_LR, DECAY)
    grouped = [id(p) for group in groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters() if p.requires_grad}
    assert len({group["name"] for group in groups}) == len(groups)
    torch.optim.AdamW(groups)


@pytest.mark.parametrize("first_prompt", ["independent", "from_text"])
def test_rates_and_decay(make_epic, first_prompt):
    model = make_epic(first_prompt=first_prompt)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, rates = set(), {}
    for group in parameter_groups(model, LR, PROMPT_LR, DECAY):
        for parameter in group["params"]:
            rates[names[id(parameter)]] = group["lr"]
            if group["weight_decay"]:
                assert group["weight_decay"] == DECAY
                decayed.add(names[id(parameter)])
    matrices = {
        f"hubs.{hub}.{way}_{side}.weight"
        for hub, way, side in itertools.product((0, 1), ("down", "up"), ("image", "text"))
    }
    matrices |= {"head.agreement.linear.weight"}
    matrices |= {f"head.agreement.similarity.down_{side}.weight" for side in ("image", "text")}
    coupling = {"prompts.coupling.weight"} if first_prompt == "from_text" else set()
    assert decayed == {"head.linear.weight"} | matrices | coupling
    assert {name for name, rate in rates.items() if rate == LR} == {
        name for name in rates if name.startswith("head.")
    }
    assert set(rates.values()) == {LR, PROMPT_LR}


def test_the_maps_to_the_classes_have_a_decay_of_their_own(make_epic):
    model = make_epic(missing_aware_head=True)
    names = {id(p): name for name, p in model.named_parameters()}
    plain = {
        names[id(p)]: group["weight_decay"]
        for group in parameter_groups(model, LR, PROMPT_LR, DECAY)
        for p in group["params"]
    }
    groups = parameter_groups(model, LR, PROMPT_LR, DECAY, head_weight_decay=0.5)
    assert len({group["name"] for group in groups}) == len(groups)
    own = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    rates = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    changed = {name for name, decay in own.items() if decay != plain[name]}
    assert changed == {"head.linear.weight", "head.alone.linear.weight"}
    assert all(own[name] == 0.5 and rates[name] == LR for name in changed)


def test_counts_cover_the_model(make_epic):
    model = make_epic()
    counts = count_parameters(model)
    total = sum(p.numel() for p in model.parameters())
    assert sum(trained + frozen for trained, frozen in counts.values()) == total
    for part, (trained, frozen) in counts.items():
        assert (trained == 0) is part.endswith("encoder")
        assert (frozen == 0) is not part.endswith("encoder")
    assert counts["prompts"] == (2 * 3 * 4 * 32, 0)
    assert counts["interaction hub"] == (2 * (4 * 32 * 8 + 4 * 32 + 1), 0)
    similarity = 2 * 64 * 8 + 4 * 64 + 1
    assert counts["head"] == (2 * 192 + 192 * 4 + 4 + similarity + 4, 0)
    assert counts["absent-modality vectors"] == (4 * 32, 0)


def test_share_is_trained_over_frozen(make_epic):
    model = make_epic()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert trainable_share(model) == pytest.approx(trained / frozen)


def test_table_prints_every_part_and_the_share(make_epic):
    model, written = make_epic(), io.StringIO()
    parameter_table(model, Console(file=written, width=100))
    text = written.getvalue()
    for part, (trained, frozen) in count_parameters(model).items():
        row = next(line for line in text.splitlines() if part in line)
        assert f"{trained:,}" in row
        assert f"{frozen:,}" in row
    assert f"{trainable_share(model):.2%}" in text
