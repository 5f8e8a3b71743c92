import math

import pytest
import slow_epic
import torch
from tiny_models import scramble

from epic_pl.nn import BottleneckHub, Pair, ParameterFreeHub, Presence
from epic_pl.nn.hub import (
    PatchDropout,
    ScaledCosine,
    patch_places,
    segment_means,
    where_parts_fit,
)
from epic_pl.utils.errors import ConfigError
from tolerance import assert_same

IMAGE, TEXT, WIDTH = 6, 4, 3
ALL = Presence()
HUBS = {
    "bottleneck": lambda: BottleneckHub(Pair(IMAGE, TEXT), WIDTH),
    "parameter-free": lambda: ParameterFreeHub(Pair(IMAGE, TEXT)),
    "parameter-free, one width": lambda: ParameterFreeHub(Pair(IMAGE, IMAGE)),
}


@pytest.fixture(params=HUBS.values(), ids=HUBS.keys())
def hub(request):
    return scramble(request.param()).double().eval()


def prompts(hub, samples=3, n=4) -> Pair:
    text = TEXT if getattr(hub, "shared", True) is not None else IMAGE
    return Pair(*(torch.randn(samples, n, width).double() for width in (IMAGE, text)))


def test_agrees_prompt_by_prompt(hub):
    given = prompts(hub, samples=1)
    with torch.no_grad():
        got, expected = (
            hub(given, ALL).prompts,
            slow_epic.consolidate(hub, *(list(x[0]) for x in given)),
        )
    for ours, theirs in zip(got, expected, strict=True):
        assert_same(ours[0], torch.stack(theirs))


def test_a_new_bottleneck_adds_nothing_and_a_parameter_free_hub_trains_nothing():
    hub = HUBS["bottleneck"]().double()
    given = prompts(hub)
    assert all(torch.equal(*each) for each in zip(hub(given, ALL).prompts, given, strict=True))
    assert not list(HUBS["parameter-free, one width"]().parameters())


def test_scores_are_cosines_over_a_temperature_that_never_reaches_zero():
    cosine, given = ScaledCosine().double(), [torch.randn(2, 4, 5).double() for _ in range(2)]
    similarities = cosine(*given)
    expected = torch.cosine_similarity(given[0][0, 1], given[1][0, 2], dim=0) / 0.1
    assert_same(similarities[0, 1, 2], expected, dtype=torch.float32)
    cosine.log_temperature.data.fill_(-100.0)
    assert cosine(*given).abs().max() <= 100 + 1e-9
    assert "log_temperature" in dict(cosine.named_parameters())
    assert math.isclose(float(ScaledCosine(learned=False).log_temperature.exp()), 0.1, rel_tol=1e-6)


def test_entries_are_dropped_one_by_one_and_the_rest_scaled():
    dropout, given = PatchDropout(0.25), torch.rand(64, 5, 40) + 1
    factors = dropout(given) / given
    kept = factors[factors > 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 4 / 3))
    assert 0.7 < len(kept) / factors.numel() < 0.8
    differ = (factors[:, :1] != factors[:, 1:]).float().mean()
    assert 0.3 < differ < 0.45  # 2 * 0.25 * 0.75
    assert torch.equal(dropout.eval()(given), given)
    assert not PatchDropout(1.0)(given).any()


def test_dropout_affects_messages_in_training_only():
    hub = scramble(BottleneckHub(Pair(IMAGE, TEXT), WIDTH, dropout=1.0)).double().eval()
    given = prompts(hub)
    assert not torch.equal(hub(given, ALL).prompts.image, given.image)
    assert torch.equal(hub.train()(given, ALL).prompts.image, given.image)


@pytest.mark.parametrize(
    ("number", "cells"),
    [
        (4, [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]),
        (2, [[0, 1, 4, 5, 8, 9, 12, 13], [2, 3, 6, 7, 10, 11, 14, 15]]),
        # three columns of four patches share the middle ones
        (3, [[row * 4 + at for row in range(4) for at in (k, k + 1)] for k in range(3)]),
    ],
)
def test_parts_of_an_image_are_cells_of_a_grid(number, cells):
    patches = torch.randn(2, 16, 3)
    expected = torch.stack([patches[:, each].mean(dim=1) for each in cells], dim=1)
    torch.testing.assert_close(segment_means(patches, number), expected)


def test_patches_must_form_a_square():
    with pytest.raises(ConfigError, match="square"):
        segment_means(torch.randn(1, 12, 3), 4)
    with pytest.raises(ConfigError, match="square"):
        patch_places(12)


def test_a_part_that_fits_one_patch_alone_has_its_place():
    similarities = torch.full(
        (1, 64, 1), -100.0
    )  # of the lowest temperature: other shares are zero
    similarities[0, 10] = 100.0
    assert where_parts_fit(similarities)[0].tolist() == pytest.approx(
        [-0.625, -0.375, 100], abs=1e-6
    )
