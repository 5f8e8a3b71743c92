"""Fields that stay in their shards, beside the same fields gathered."""

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities import move_data_to_device

from epic_pl.features.store import lazy, reader
from epic_pl.lazy_tensor import LazyTensor, whole
from epic_pl.nn.encoders.reading import Memory, read_attention

dtypes = pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Tiny fields stay in place, and are read two or three items at a time."""
    monkeypatch.setattr(reader, "_LARGE", 0)
    monkeypatch.setattr(lazy, "_PIECE", 2500)


def both(store, rows):
    """The same batch left in place and gathered."""
    rows = np.asarray(rows)
    return store.gather(rows, ("memory",)), store.gather(rows)


@dtypes
def test_a_field_holds_what_a_gather_gives(tmp_path, items, rng, dtype):
    store = items.build(tmp_path, dtype)
    drawn = [rng.choice(len(store), size) for size in (1, 8, 23)]  # with repetitions
    for rows in (*drawn, [3, -1, 4, -1], [-1, -1]):
        left, gathered = both(store, rows)
        assert left.keys() == gathered.keys()
        assert isinstance(left["memory"], LazyTensor)
        for name, expected in gathered.items():
            assert tuple(left[name].shape) == tuple(expected.shape)
            assert left[name].dtype == expected.dtype
            assert torch.equal(whole(left[name]), expected), name


@dtypes
def test_pieces_are_the_samples_in_order(tmp_path, items, dtype):
    left, gathered = both(items.build(tmp_path, dtype), [5, -1, *range(9)])
    field, expected = left["memory"][:, 1], gathered["memory"][:, 1]
    for wanted in (torch.float32, torch.bfloat16):
        seen = []
        for samples, piece in field.pieces(wanted):
            seen += range(11)[samples]
            assert torch.equal(piece, expected[samples].to(wanted))
            assert len(piece) < 11
        assert seen == list(range(11))


def test_only_leading_axes_can_be_fixed(tmp_path, items, monkeypatch):
    store = items.build(tmp_path, "float16")
    left, gathered = both(store, range(4))
    memory = left["memory"]
    assert torch.equal(memory[:, 1][:, 2].whole(), gathered["memory"][:, 1, 2])
    for index in [(0,), (slice(None), slice(1)), (slice(None), 0, 0, 0, 0), (slice(1, None), 0)]:
        with pytest.raises(IndexError):
            memory[index]
    monkeypatch.setattr(reader, "_LARGE", 1 << 20)
    assert isinstance(both(store, range(4))[0]["memory"], torch.Tensor)  # a small field


@dtypes
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_attention_and_its_gradients_are_those_of_gathered_tensors(
    tmp_path, items, dtype, precision
):
    left, gathered = both(items.build(tmp_path, dtype), [2, 7, -1, 7, 20])
    results = []
    for memory in (left["memory"], gathered["memory"]):
        # the test's memory is (B, 2, h, N, d)
        length = memory.shape[3]
        torch.manual_seed(0)
        stream = [torch.randn(5, 3, 4, 8).to(precision).requires_grad_() for _ in range(3)]
        mask = torch.ones(5, 1, 1, length + 4, dtype=torch.bool)
        mask[2, ..., :length] = False
        output = read_attention(*stream, Memory(memory[:, 0], memory[:, 1]), mask)
        gradients = torch.autograd.grad((output * torch.randn(5, 3, 4, 8)).sum(), stream)
        results.append([output, *gradients])
    atol = 1e-6 if precision == torch.float32 else 0.02
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=atol)


def test_a_trainer_moves_it_to_other_devices_only(tmp_path, items):
    left, _ = both(items.build(tmp_path, "float16"), range(4))
    on_cpu = move_data_to_device({"text_features": left}, torch.device("cpu"))
    assert on_cpu["text_features"]["memory"] is left["memory"]
    moved = move_data_to_device(left, torch.device("meta"))["memory"]
    assert moved.is_meta
    assert tuple(moved.shape) == left["memory"].shape
