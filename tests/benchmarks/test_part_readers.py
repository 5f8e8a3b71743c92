"""What the readers see of patches and parts, against loops."""

import math

import pytest
import torch

from controls.parts import AttentionReader, MapReader, MeanReader
from epic_pl.nn.methods.parts import Reader
from epic_pl.nn.pair import Pair

PARTS, WIDTH, SIDE = 3, 8, 4
READERS = (Reader, MeanReader, AttentionReader, MapReader)


@pytest.fixture
def compared():
    torch.manual_seed(0)
    return Pair(torch.randn(2, SIDE**2, WIDTH), torch.randn(2, PARTS, WIDTH)), torch.randn(
        2, SIDE**2, PARTS
    )


def read(reader: type[Reader], compared, similarities):
    torch.manual_seed(1)
    return reader(PARTS, WIDTH).eval()(compared, similarities)


@pytest.mark.parametrize("reader", READERS)
def test_ends_with_how_well_each_part_fits(reader, compared):
    numbers = read(reader, *compared)
    fits = [[math.log(sum(math.exp(s) for s in row)) for row in each.T] for each in compared[1]]
    torch.testing.assert_close(numbers[:, -PARTS:], torch.tensor(fits))


@pytest.mark.parametrize("reader", READERS)
def test_sees_where_a_part_fits(reader, compared):
    # a head that is given the same for all places could not know how two things lie
    (image, text), similarities = compared
    turned = image.unflatten(1, (SIDE, SIDE)).transpose(1, 2).flatten(1, 2)
    elsewhere = similarities.unflatten(1, (SIDE, SIDE)).transpose(1, 2).flatten(1, 2)
    before, after = read(reader, *compared), read(reader, Pair(turned, text), elsewhere)
    assert (before - after)[:, :-PARTS].abs().max() > 1e-3


def test_means_are_those_of_cells_and_the_parts(compared):
    (image, text), similarities = compared
    numbers = read(MeanReader, Pair(image, text), similarities)
    # 16 patches are 16 cells
    parts = [*image[0], *text[0]]
    expected = torch.cat([part / math.sqrt(sum(x * x for x in part)) for part in parts])
    torch.testing.assert_close(numbers[0, :-PARTS], expected)


def test_attention_is_torchs_decoder_over_places_and_parts(compared):
    (image, text), similarities = compared
    torch.manual_seed(1)
    reader = AttentionReader(PARTS, WIDTH).eval()
    memory = torch.zeros_like(image)
    for patch in range(SIDE**2):
        row, column = divmod(patch, SIDE)
        place = torch.tensor([(2 * row + 1) / SIDE - 1, (2 * column + 1) / SIDE - 1])
        unit = image[:, patch] / image[:, patch].norm(dim=-1, keepdim=True)
        memory[:, patch] = unit * WIDTH**0.5 + reader.place.weight @ place + reader.place.bias
    query = text / text.norm(dim=-1, keepdim=True) * WIDTH**0.5 + reader.positions
    for layer in reader.layers.layers:
        query = layer(query, memory)
    numbers = reader(Pair(image, text), similarities)
    torch.testing.assert_close(numbers[:, :-PARTS], query.flatten(1))


def test_the_map_is_convolved_as_an_image_of_a_channel_a_part(compared):
    pair, similarities = compared
    torch.manual_seed(1)
    reader = MapReader(PARTS, WIDTH).eval()
    image = torch.empty(2, PARTS, SIDE, SIDE)
    for patch in range(SIDE**2):
        image[:, :, patch // SIDE, patch % SIDE] = similarities[:, patch]
    torch.testing.assert_close(reader(pair, similarities)[:, :-PARTS], reader.layers(image))
