import math

import pytest
import slow_epic
import torch
from tiny_models import scramble

from epic_pl.nn import BottleneckHub, Pair, ParameterFreeHub
from epic_pl.nn.interaction import ScaledCosine

IMAGE, TEXT, WIDTH = 6, 4, 3
ALL = Pair(None, None)
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
        torch.testing.assert_close(ours[0], torch.stack(theirs), rtol=0, atol=1e-12)


def test_a_new_bottleneck_adds_nothing_and_a_parameter_free_hub_trains_nothing():
    hub = HUBS["bottleneck"]().double()
    given = prompts(hub)
    assert all(torch.equal(*each) for each in zip(hub(given, ALL).prompts, given, strict=True))
    assert not list(HUBS["parameter-free, one width"]().parameters())


def test_scores_are_cosines_over_a_temperature_that_never_reaches_zero():
    cosine, given = ScaledCosine().double(), [torch.randn(2, 4, 5).double() for _ in range(2)]
    similarities = cosine(*given)
    expected = torch.cosine_similarity(given[0][0, 1], given[1][0, 2], dim=0) / 0.1
    torch.testing.assert_close(similarities[0, 1, 2], expected, rtol=1e-6, atol=1e-6)
    cosine.log_temperature.data.fill_(-100.0)
    assert cosine(*given).abs().max() <= 100 + 1e-9
    assert "log_temperature" in dict(cosine.named_parameters())
    assert math.isclose(float(ScaledCosine(learned=False).log_temperature.exp()), 0.1, rel_tol=1e-6)


def test_dropout_affects_messages_in_training_only():
    hub = scramble(BottleneckHub(Pair(IMAGE, TEXT), WIDTH, dropout=1.0)).double().eval()
    given = prompts(hub)
    assert not torch.equal(hub(given, ALL).prompts.image, given.image)
    assert torch.equal(hub.train()(given, ALL).prompts.image, given.image)
