import pytest
import torch
from tiny_models import image_encoder, text_encoder

from epic_pl.errors import ConfigError
from epic_pl.nn.methods.maple import MaPLe, MaPLeConfig


def test_picture_prompts_come_from_the_texts_alone():
    model = MaPLe(image_encoder(), text_encoder(), 5, MaPLeConfig(num_prompts=3, prompt_depth=2))
    assert {name for name, _ in model.prompts.named_parameters()} == {
        "text",
        *(f"couplings.{step}.{part}" for step in (0, 1) for part in ("weight", "bias")),
    }
    image, text = model.prompts()
    assert image.shape == (2, 3, 32)
    assert text.shape == (2, 3, 24)
    with torch.no_grad():
        model.prompts.text[1] += 1
    changed, _ = model.prompts()
    assert torch.equal(changed[0], image[0])
    assert not torch.allclose(changed[1], image[1])


def test_the_depth_is_four_or_what_the_shallower_encoder_has():
    assert MaPLeConfig().depth(12) == 4
    assert MaPLeConfig().depth(3) == 3
    assert MaPLeConfig(prompt_depth=9).depth(12) == 9
    assert len(MaPLe(image_encoder(4), text_encoder(2), 5).prompts.text) == 2


@pytest.mark.parametrize("depth", [0, 3])
def test_a_depth_that_is_not_there_is_refused(depth):
    with pytest.raises(ConfigError, match=rf"prompt_depth is {depth}, .*choose from 1 to 2"):
        MaPLe(image_encoder(4), text_encoder(2), 5, MaPLeConfig(prompt_depth=depth))


@pytest.mark.parametrize("options", [{"num_prompts": 0}, {"prompt_init_std": 0.0}], ids=str)
def test_impossible_options_are_refused_by_name(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        MaPLeConfig(**options)
