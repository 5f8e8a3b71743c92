import pytest
import torch
from torch import nn

from epic_pl.nn import InteractionHub

IMAGE, TEXT, WIDTH = 6, 4, 3


def lively_hub(image_width=IMAGE, text_width=TEXT, **options) -> InteractionHub:
    hub = InteractionHub(image_width, text_width, WIDTH, **options)
    for layer in (hub.up_image, hub.up_text):
        nn.init.normal_(layer.weight)
    for norm in (hub.norm_image, hub.norm_text):
        nn.init.normal_(norm.weight, mean=1.0, std=0.2)
        nn.init.normal_(norm.bias, std=0.2)
    return hub.double().eval()


def prompts(image_width=IMAGE, text_width=TEXT, samples=2, n=4):
    return (
        torch.randn(samples, n, image_width, dtype=torch.float64),
        torch.randn(samples, n, text_width, dtype=torch.float64),
    )


def test_own_context_is_kept_at_the_start():
    image, text = prompts()
    consolidated = InteractionHub(IMAGE, TEXT, WIDTH).double()(image, text)
    assert torch.equal(consolidated[0], image)
    assert torch.equal(consolidated[1], text)


def test_swapping_the_inputs_of_a_symmetric_hub_swaps_its_outputs():
    hub = lively_hub(5, 5)
    for part in ("norm", "down", "up"):
        getattr(hub, f"{part}_text").load_state_dict(getattr(hub, f"{part}_image").state_dict())
    image, text = prompts(5, 5)
    forth, back = hub(image, text), hub(text, image)
    torch.testing.assert_close(forth[0], back[1])
    torch.testing.assert_close(forth[1], back[0])
    assert not torch.allclose(forth[0], forth[1])


@pytest.mark.parametrize("side", [0, 1], ids=["image", "text"])
def test_permuting_prompts_leaves_the_other_message_and_permutes_its_own(side):
    hub, inputs = lively_hub(), list(prompts())
    before = hub.messages(*inputs)
    order = torch.tensor([2, 0, 3, 1])
    inputs[side] = inputs[side][:, order]
    after = hub.messages(*inputs)
    torch.testing.assert_close(after[1 - side], before[1 - side])
    torch.testing.assert_close(after[side], before[side][:, order])
    assert not torch.allclose(before[side], before[side][:, order])


@pytest.mark.parametrize("absent", [0, 1], ids=["image", "text"])
def test_an_absent_modality_sends_nothing(absent):
    hub, inputs = lively_hub(), prompts(samples=3)
    present = [torch.ones(3, dtype=torch.bool) for _ in range(2)]
    present[absent][1] = False
    full, partial = hub(*inputs), hub(*inputs, *present)
    other = 1 - absent
    assert torch.equal(partial[other][1], inputs[other][1])
    assert torch.equal(partial[absent], full[absent])  # it still listens
    for here in (0, 2):
        assert torch.equal(partial[other][here], full[other][here])
        assert not torch.allclose(partial[other][here], inputs[other][here])


def test_similarity_is_a_cosine_over_temperature():
    image, text = prompts()
    warm, cold = lively_hub(temperature=1.0), lively_hub(temperature=0.5)
    cold.load_state_dict({**warm.state_dict(), "log_temperature": cold.log_temperature.detach()})
    scores = warm.similarity(image, text)
    assert scores.shape == (2, 4, 4)
    assert scores.abs().max() <= 1 + 1e-12
    torch.testing.assert_close(cold.similarity(image, text), scores * 2, rtol=1e-6, atol=1e-9)
    a, b = warm.down_image(warm.norm_image(image)), warm.down_text(warm.norm_text(text))
    expected = torch.cosine_similarity(a[0, 1], b[0, 2], dim=0)
    torch.testing.assert_close(scores[0, 1, 2], expected)


def test_a_cold_hub_takes_the_most_similar_prompt_alone():
    hub = lively_hub(temperature=0.01)
    image, text = prompts(samples=1)
    closest = hub.similarity(image, text)[0].argmax(dim=1)
    values = hub.down_text(hub.norm_text(text))[0, closest]
    torch.testing.assert_close(hub.messages(image, text)[0][0], values, rtol=0.05, atol=0.05)


def test_temperature_never_reaches_zero():
    hub = lively_hub()
    hub.log_temperature.data.fill_(-100.0)
    scores = hub.similarity(*prompts())
    assert scores.abs().max() <= 100 + 1e-9


@pytest.mark.parametrize("learn", [True, False])
def test_learned_temperature_is_a_parameter_and_a_fixed_one_is_saved(learn):
    hub = InteractionHub(IMAGE, TEXT, WIDTH, temperature=0.2, learn_temperature=learn)
    assert ("log_temperature" in dict(hub.named_parameters())) is learn
    assert hub.state_dict()["log_temperature"].exp().item() == pytest.approx(0.2)


def test_dropout_touches_messages_in_training_only():
    hub = lively_hub(dropout=1.0)
    image, text = prompts()
    assert not torch.equal(hub(image, text)[0], image)
    assert torch.equal(hub.train()(image, text)[0], image)
