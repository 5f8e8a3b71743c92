import pytest
import torch
from base_encoders import count_trained
from tiny_models import batch, image_encoder, scramble, text_encoder
from torch.utils.flop_counter import FlopCounterMode

from epic_pl.errors import ConfigError
from epic_pl.nn.methods.pmf import PMF, PMFConfig


@pytest.mark.parametrize(("train_fusion_context", "count"), [(False, 2_543_818), (True, 2_556_106)])
def test_base_encoders_train_as_many_parameters_as_the_release(train_fusion_context, count):
    assert count_trained("pmf", train_fusion_context=train_fusion_context) == count


def test_the_query_stage_leaves_the_tokens_alone():
    model = scramble(PMF(image_encoder(), text_encoder(), 5).double(), seed=7).eval()
    state = model.image_tower.extract(batch([3, 2])["pixel_values"], None, None)
    before = state.tokens.clone()
    heard = model.image_prompts.ask(0, model.image_tower, state)
    assert heard.shape == (2, 4, model.text_encoder.width)
    assert torch.equal(state.tokens, before)
    assert state.next_layer == 1


def test_without_the_other_modality_a_head_stands_alone():
    model = scramble(PMF(image_encoder(), text_encoder(), 5).double(), seed=7).eval()
    made = batch([3, 2, 4], [1, 1, 0], [1, 0, 1])
    with torch.no_grad():
        before = model(made)
        model.head[1].weight.zero_()
        model.head[1].bias.zero_()
        after = model(made)
    assert torch.equal(after[1], before[1])  # no text: the text's head had no part
    assert not torch.allclose(after[0], before[0])
    assert not after[2].any()


def test_a_trimmed_last_layer_gives_the_same_logits_with_less_work():
    whole, trimmed = (
        scramble(PMF(image_encoder(), text_encoder(), 5, config).double(), seed=7).eval()
        for config in (PMFConfig(), PMFConfig(trim_last_layer=True))
    )
    made = batch([3, 2, 4], [1, 1, 0], [1, 0, 1])
    counts = []
    for model in (whole, trimmed):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(made)
        counts.append(counter.get_total_flops())
    with torch.no_grad():
        torch.testing.assert_close(trimmed(made), whole(made))
    assert counts[1] < counts[0]


@pytest.mark.parametrize(
    "options",
    [
        {"fusion_layers": 0},
        {"query_prompts": 0},
        {"query_context_prompts": -1},
        {"fusion_context_prompts": -1},
        {"prompt_init_std": 0.0},
    ],
    ids=str,
)
def test_impossible_options_are_refused_by_name(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        PMFConfig(**options)


def test_more_fusion_layers_than_an_encoder_has_are_refused():
    with pytest.raises(ConfigError, match="fusion_layers is 3, but the encoders have 3 and 2"):
        PMF(image_encoder(3), text_encoder(2), 5, PMFConfig(fusion_layers=3))
