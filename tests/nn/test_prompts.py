import pytest
import torch

from epic_pl.nn import TemporalPrompts


@pytest.mark.parametrize("first_prompt", ["independent", "from_text"])
def test_activation_adds_each_steps_own_vectors(first_prompt):
    prompts = TemporalPrompts(3, 2, 5, 4, first_prompt, init_std=1.0)
    image, text = torch.randn(6, 2, 5), torch.randn(6, 2, 4)
    added = [prompts.activate(step, image, text) for step in (1, 2)]
    for step, (new_image, new_text) in zip((1, 2), added, strict=True):
        torch.testing.assert_close(new_text - text, prompts.text[step].expand(6, -1, -1))
        torch.testing.assert_close(
            new_image - image,
            prompts.image[step - 3].expand(6, -1, -1),  # counted from the end
        )
    assert not torch.allclose(added[0][0], added[1][0])


def test_independent_first_prompts_are_learned_vectors_for_every_sample():
    prompts = TemporalPrompts(2, 3, 5, 4)
    image, text = prompts.first(7)
    assert image.shape == (7, 3, 5)
    assert text.shape == (7, 3, 4)
    assert torch.equal(image[4], prompts.image[0])
    assert torch.equal(text[4], prompts.text[0])


def test_coupled_first_prompt_follows_the_texts():
    prompts = TemporalPrompts(2, 3, 5, 4, "from_text")
    image, text = prompts.first(1)
    expected = text[0] @ prompts.coupling.weight.T + prompts.coupling.bias
    torch.testing.assert_close(image[0], expected)
    assert prompts.image.shape == (1, 3, 5)  # none of its own in step 1


def test_gaussian_at_the_start():
    prompts = TemporalPrompts(4, 50, 64, 64, init_std=0.3)
    for vectors in (prompts.image, prompts.text):
        assert vectors.mean().abs() < 0.02
        assert vectors.std().item() == pytest.approx(0.3, rel=0.05)
