"""Work that nothing needs is left out, and changes no output and no gradient but by rounding."""

import pytest
import torch
from tiny_models import (
    clip_image_encoder,
    clip_text_encoder,
    image_encoder,
    scramble,
    text_encoder,
)
from torch.utils.flop_counter import FlopCounterMode

ENCODERS = {
    "ViT": lambda: image_encoder(2, reg_tokens=2),
    "ViT without biases": lambda: image_encoder(2, qkv_bias=False),
    "ViT with normed keys": lambda: image_encoder(2, qk_norm=True),
    "BERT": lambda: text_encoder(2),
    "CLIP, pictures": clip_image_encoder,
    "CLIP, texts": clip_text_encoder,
}
B, N, PROMPTS = 2, 40, 3


@pytest.fixture(params=ENCODERS.values(), ids=ENCODERS.keys())
def encoder(request):
    made = request.param()
    scramble(made.model)
    return made


def _inputs(encoder, of_tokens=False):
    torch.manual_seed(0)
    tokens = torch.randn(B, N, encoder.width, requires_grad=of_tokens)
    prompts = torch.randn(B, PROMPTS, encoder.width, requires_grad=True)
    mask = torch.rand(B, N) < 0.7
    mask[:, 0] = True
    return tokens, prompts, mask


def _run(function, wanted):
    """Outputs, gradients of the wanted, and operations."""
    torch.manual_seed(1)
    with FlopCounterMode(display=False) as counter:
        outputs = function()
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = sum((output * torch.randn_like(output)).sum() for output in outputs)
        gradients = torch.autograd.grad(loss, wanted)
    return [*outputs, *gradients], counter.get_total_flops()


def _assert_same(ours, reference):
    for one, other in zip(ours, reference, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.parametrize("of_tokens", [False, True])
def test_only_tokens_that_want_a_gradient_get_it(encoder, monkeypatch, of_tokens, checkpoints):
    tokens, prompts, mask = _inputs(encoder, of_tokens)
    wanted = [tokens, prompts] if of_tokens else [prompts]
    encoder.checkpoint_layers = checkpoints
    spared, fewer = _run(lambda: encoder.run_layer(0, tokens, mask, prompts), wanted)
    monkeypatch.setattr(encoder, "projections", lambda index: [])
    whole, all_of_it = _run(lambda: encoder.run_layer(0, tokens, mask, prompts), wanted)
    _assert_same(spared, whole)
    if not of_tokens:
        # of the backward pass queries, keys and values of N tokens; prompts are projected twice
        each = 2 * encoder.width * 3 * encoder.width
        again = PROMPTS * (2 if checkpoints else 1)
        assert all_of_it - fewer == B * each * (N - again)


def test_no_hook_stays(encoder):
    tokens, prompts, mask = _inputs(encoder)
    encoder.run_layer(0, tokens, mask, prompts)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in encoder.modules())


def test_few_positions_read_tokens_without_their_keys_and_values(encoder):
    tokens, prompts, mask = _inputs(encoder, of_tokens=True)
    if encoder.unprojected(1, tokens) is None:  # a norm of the keys' own stands between
        assert encoder.model.blocks[1].attn.k_norm.weight is not None
        return
    stream = prompts[:, :1].detach().requires_grad_()

    def read(memory):
        # the counter takes no leaf that enters a module
        return lambda: encoder.read_layer(1, stream + 0, memory(1, tokens + 0), mask)

    brought, fewer = _run(read(encoder.unprojected), [tokens, stream])
    plain, all_of_it = _run(read(encoder.memory), [tokens, stream])
    _assert_same(brought, plain)
    assert fewer < all_of_it
    unprojected = encoder.unprojected(1, tokens)
    assert unprojected.length() == N
    assert unprojected.spares(1)
    assert not unprojected.spares(N)
