"""Attention to a memory beside torch's own attention over memory and stream in one piece."""

import pytest
import torch
import torch.nn.functional as F

from epic_pl.nn.encoders.memory import Memory, attend
from tolerance import assert_same

B, H, N, STREAM, D = 3, 2, 7, 4, 8


def inputs():
    return [torch.randn(B, H, STREAM, D, requires_grad=True) for _ in range(3)]


def whole(queries, keys, values, memory, mask=None, scale=None):
    return F.scaled_dot_product_attention(
        queries,
        torch.cat([memory.keys.to(keys.dtype), keys], dim=2),
        torch.cat([memory.values.to(values.dtype), values], dim=2),
        attn_mask=mask,
        scale=scale,
    )


@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_outputs_and_gradients_are_those_of_attention_in_one_piece(dtype, masked, scale):
    stream, mask = inputs(), None
    # as a store gives it: the heads behind the tokens
    memory = Memory(*(torch.randn(2, B, N, H, D).to(dtype).transpose(2, 3)))
    if masked:
        mask = torch.rand(B, 1, 1, N + STREAM) < 0.5
        mask[..., -1] = True  # something is left to read
        mask[0, ..., :N] = False  # nothing of a memory that is absent
    weights = torch.randn(B, H, STREAM, D)
    results = []
    for attention in (attend, whole):
        output = attention(*stream, memory, mask, scale)
        results.append([output, *torch.autograd.grad((output * weights).sum(), stream)])
    for one, other in zip(*results, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_list_of_samples_is_read_as_one_tensor_padded_with_masked_tokens(precision):
    stream = [part.to(precision).detach().requires_grad_() for part in inputs()]
    lengths = (N, 1, N - 2)
    mask = torch.arange(N + STREAM) < torch.tensor(lengths)[:, None]
    mask[:, N:] = True
    padded = (torch.randn(2, B, H, N, D) * mask[:, None, :N, None]).half()
    samples = [
        [row[:, :length] for row, length in zip(part, lengths, strict=True)] for part in padded
    ]
    weights, results = torch.randn(B, H, STREAM, D), []
    for memory in (Memory(*samples), Memory(*padded)):
        assert memory.length() == N
        output = attend(*stream, memory, mask[:, None, None])
        results.append([output, *torch.autograd.grad((output * weights).sum(), stream)])
    for one, other in zip(*results, strict=True):
        assert_same(one, other)


def test_autocast_keeps_its_own_precision():
    with torch.autocast("cpu", torch.bfloat16):
        stream = [part.bfloat16() for part in inputs()]
        memory = Memory(*torch.randn(2, B, H, N, D).half())
        output = attend(*stream, memory)
    assert output.dtype == torch.bfloat16
    expected = whole(*(part.float() for part in stream), memory)
    assert_same(output, expected)


def test_backward_keeps_the_memory_as_it_is_stored():
    stream, kept = inputs(), {}
    memory = Memory(*torch.randn(2, B, H, 1000, D).half())

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attend(*stream, memory)
    large = [tensor for tensor in kept.values() if tensor.numel() >= memory.keys.numel()]
    assert {tensor.data_ptr() for tensor in large} == {part.data_ptr() for part in memory}
