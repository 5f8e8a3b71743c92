"""How alike prompts attend, on weights that can be checked by hand."""

import pytest
import torch

from prompt_attention import between_prompts, distance


def test_distances_are_total_variations_of_shares():
    weights = torch.tensor([[[0.2, 0.2], [0.4, 0.0], [0.0, 0.1]]])  # shares 1/2 1/2, 1 0, 0 1
    assert distance(weights[:, 1], weights[:, 2]) == 1
    assert between_prompts(weights) == pytest.approx(2 / 3, abs=1e-4)
    assert between_prompts(weights[:, :1]) == 0
