import pytest
import torch

from epic_pl.nn import Pair, TemporalPrompts

WIDTHS = Pair(5, 4)


def test_offsets_are_added_step_by_step():
    prompts = TemporalPrompts(3, 2, WIDTHS, init_std=1.0)
    given = Pair(torch.randn(6, 2, 5), torch.randn(6, 2, 4))
    added = [prompts.activate(step, given) for step in (1, 2)]
    for number, new in enumerate(added):
        expected = prompts.offsets_image[number], prompts.offsets_text[number]
        for after, before, offset in zip(new, given, expected, strict=True):
            torch.testing.assert_close(after - before, offset.expand_as(before))
    assert not torch.allclose(added[0].image, added[1].image)


def test_linear_generation_is_one_map_for_all_steps_and_the_identity_at_first():
    prompts = TemporalPrompts(3, 2, WIDTHS, generation="linear")
    given = Pair(torch.randn(6, 2, 5), torch.randn(6, 2, 4))
    assert all(torch.equal(*each) for each in zip(prompts.activate(1, given), given, strict=True))
    torch.nn.init.normal_(prompts.map_text.weight)
    first, second = (prompts.activate(step, given).text for step in (1, 2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, given.text @ prompts.map_text.weight.T)


@pytest.mark.parametrize("first_prompt", ["independent", "from_text"])
def test_first_prompts_are_the_same_for_every_sample(first_prompt):
    prompts = TemporalPrompts(2, 3, WIDTHS, first_prompt)
    image, text = prompts.first(7)
    assert (image.shape, text.shape) == ((7, 3, 5), (7, 3, 4))
    assert torch.equal(text[4], prompts.first_text)
    if first_prompt == "from_text":
        torch.testing.assert_close(
            image[4], text[4] @ prompts.coupling.weight.T + prompts.coupling.bias
        )
    else:
        assert torch.equal(image[4], prompts.first_image)


def test_prompts_are_gaussian_at_the_start():
    prompts = TemporalPrompts(4, 50, Pair(64, 64), init_std=0.3)
    for vectors in prompts.parameters():
        assert vectors.mean().abs() < 0.03
        assert vectors.std().item() == pytest.approx(0.3, rel=0.05)
