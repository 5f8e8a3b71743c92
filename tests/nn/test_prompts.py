"""How prompts start; test_epic_reference.py has how they are generated."""

import pytest
import torch

from epic_pl.nn import Pair, TemporalPrompts


def test_linear_generation_is_the_identity_at_first():
    prompts = TemporalPrompts(3, 2, Pair(5, 4), generation="linear")
    given = Pair(torch.randn(6, 2, 5), torch.randn(6, 2, 4))
    assert all(torch.equal(*each) for each in zip(prompts.activate(1, given), given, strict=True))


def test_prompts_are_gaussian_at_the_start():
    prompts = TemporalPrompts(4, 50, Pair(64, 64), init_std=0.3)
    for vectors in prompts.parameters():
        assert vectors.mean().abs() < 0.03
        assert vectors.std().item() == pytest.approx(0.3, rel=0.05)
