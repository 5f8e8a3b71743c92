"""What the locators see of patches and parts, against loops."""

import math

import pytest
import torch

from controls.parts import AttentionLocator, Locator, MapLocator, MeanLocator
from epic_pl.nn.pair import Pair
from tolerance import assert_same

PARTS, WIDTH, SIDE = 3, 8, 4
LOCATORS = (MeanLocator, AttentionLocator, MapLocator)


@pytest.fixture
def projected():
    torch.manual_seed(0)
    return Pair(torch.randn(2, SIDE**2, WIDTH), torch.randn(2, PARTS, WIDTH)), torch.randn(
        2, SIDE**2, PARTS
    )


def locate(locator: type[Locator], projected, similarities):
    torch.manual_seed(1)
    return locator(PARTS, WIDTH).eval()(projected, similarities)


@pytest.mark.parametrize("locator", LOCATORS)
def test_ends_with_how_well_each_part_fits(locator, projected):
    numbers = locate(locator, *projected)
    fits = [[math.log(sum(math.exp(s) for s in row)) for row in each.T] for each in projected[1]]
    assert_same(numbers[:, -PARTS:], torch.tensor(fits))


@pytest.mark.parametrize("locator", LOCATORS)
def test_sees_where_a_part_fits(locator, projected):
    # a head that is given the same for all places could not know how two things lie
    (image, text), similarities = projected
    turned = image.unflatten(1, (SIDE, SIDE)).transpose(1, 2).flatten(1, 2)
    elsewhere = similarities.unflatten(1, (SIDE, SIDE)).transpose(1, 2).flatten(1, 2)
    before, after = locate(locator, *projected), locate(locator, Pair(turned, text), elsewhere)
    assert (before - after)[:, :-PARTS].abs().max() > 1e-3


def test_attention_is_torchs_decoder_over_places_and_parts(projected):
    (image, text), similarities = projected
    torch.manual_seed(1)
    locator = AttentionLocator(PARTS, WIDTH).eval()
    memory = torch.zeros_like(image)
    for patch in range(SIDE**2):
        row, column = divmod(patch, SIDE)
        place = torch.tensor([(2 * row + 1) / SIDE - 1, (2 * column + 1) / SIDE - 1])
        unit = image[:, patch] / image[:, patch].norm(dim=-1, keepdim=True)
        memory[:, patch] = unit * WIDTH**0.5 + locator.place.weight @ place + locator.place.bias
    query = text / text.norm(dim=-1, keepdim=True) * WIDTH**0.5 + locator.positions
    for layer in locator.layers.layers:
        query = layer(query, memory)
    numbers = locator(Pair(image, text), similarities)
    assert_same(numbers[:, :-PARTS], query.flatten(1))
