import pytest
import torch

from epic_pl.nn.presence import drop_modalities


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_drops_at_the_rate_asked_evenly_and_never_both(probability):
    everyone = torch.ones(40_000, dtype=torch.bool)
    image, text = drop_modalities(everyone, everyone, probability)
    assert (image | text).all()
    for kept in (image, text):
        # five standard deviations of the rate of 40,000 draws are at most 0.0125
        assert (~kept).double().mean().item() == pytest.approx(probability / 2, abs=0.0125)


def test_a_lone_modality_stays_and_an_absent_one_stays_absent():
    image = torch.tensor([True, False, False]).repeat(500)
    text = torch.tensor([False, True, False]).repeat(500)
    kept_image, kept_text = drop_modalities(image, text, 1.0)
    assert torch.equal(kept_image, image)
    assert torch.equal(kept_text, text)


def test_inputs_are_left_alone():
    everyone = torch.ones(100, dtype=torch.bool)
    drop_modalities(everyone, everyone, 1.0)
    assert everyone.all()
