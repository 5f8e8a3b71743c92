import pytest
import torch
from tiny_models import batch, make

from epic_pl.nn.pair import drop_sources, where_present


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_drops_at_the_rate_evenly_and_never_both(probability):
    everyone = torch.ones(40_000, dtype=torch.bool)
    image, text, _ = drop_sources(everyone, everyone, None, probability)
    assert everyone.all()
    assert (image | text).all()
    for kept in (image, text):
        # five standard deviations of the rate of 40,000 draws are at most 0.0125
        assert (~kept).double().mean().item() == pytest.approx(probability / 2, abs=0.0125)


def test_unimodal_samples_keep_their_modality():
    image = torch.tensor([True, False, False]).repeat(500)
    text = torch.tensor([False, True, False]).repeat(500)
    kept_image, kept_text, _ = drop_sources(image, text, None, 1.0)
    assert torch.equal(kept_image, image)
    assert torch.equal(kept_text, text)


def test_columns_are_dropped_apart_from_modalities():
    everyone, columns = torch.ones(40_000, dtype=torch.bool), torch.arange(40_000) % 4 > 0
    image, text, kept = drop_sources(everyone, everyone, columns, 0.3)
    assert not kept[~columns].any()
    lost = ~kept[columns]
    for whole in (lost, lost[(image & text)[columns]]):
        assert whole.double().mean().item() == pytest.approx(0.3, abs=0.0125)


def test_missing_rows_become_zero_even_where_they_were_nan():
    values = torch.full((2, 3), torch.nan)
    values[1] = 1.0
    assert where_present(values, torch.tensor([False, True])).tolist() == [[0, 0, 0], [1, 1, 1]]
    assert where_present(values, None) is values


@pytest.mark.parametrize("masked", [False, True])
def test_samples_without_a_cell_have_no_columns(masked):
    cells = torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.0, 1.0]])
    given = batch([3, 2, 4], *([[1, 0, 1]] if masked else [])) | {"columns": cells}
    assert make().presence(given).columns.tolist() == [False, True, True]
    assert make().presence(batch([3, 2, 4])).columns is None
