import pickle

import numpy as np
import pytest
import torch
from cache_items import SMALL, build_one

from epic_pl.features.store import reader

TOLERANCE = {"float32": 0.0, "float16": 1e-3, "bfloat16": 8e-3}


def assert_batch(batch, items, names, tolerance):
    expected, lengths = items.padded(names)
    memory = expected["memory"].nan_to_num()
    assert batch["memory"].shape == memory.shape
    torch.testing.assert_close(batch["memory"].float(), memory, rtol=tolerance, atol=1e-6)
    torch.testing.assert_close(batch["pooled"].float(), expected["pooled"], rtol=tolerance, atol=0)
    if lengths is not None:
        assert torch.equal(batch["mask"].sum(1), lengths)
        assert batch["mask"].dtype == torch.bool
        for row, length in enumerate(lengths):
            assert not batch["memory"][row, :, :, length:].any()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shard_bytes", [1, SMALL, 1 << 20], ids=["each", "some", "one-shard"])
def test_a_batch_is_what_was_stored_item_by_item(tmp_path, items, rng, dtype, shard_bytes):
    store = items.build(tmp_path, dtype, shard_bytes=shard_bytes)
    for size in (1, 8, 23):
        names = rng.choice(items.hashes, size).tolist()  # with repetitions
        batch = store.gather(store.find(names))
        assert batch["memory"].dtype == getattr(torch, dtype)
        assert_batch(batch, items, names, TOLERANCE[dtype])


def test_padding_is_not_stored(tmp_path, items):
    store = items.build(tmp_path, "float16", shard_bytes=1 << 20)
    tokens = sum(items.length(name) if items.ragged else 5 for name in items.hashes)
    numbers = 2 * (2 * 3 * 8 * tokens + 9 * len(items.hashes))
    beside = len(items.hashes) * (24 if items.ragged else 16)
    beside += 8 * (4 if items.ragged else 3)  # a checksum of each tensor
    (shard,) = (path.read_bytes() for path in store.folder.glob("shard-*"))
    header = 8 + int.from_bytes(shard[:8], "little")
    assert len(shard) == header + numbers + beside


def test_absent_items_are_zero(tmp_path, items):
    store = items.build(tmp_path)
    assert store.find(["unknown"]) < 0
    batch = store.gather(np.array([3, -1, 4]))
    alone = store.gather(np.array([3, 4]))
    for name, tensor in alone.items():
        assert torch.equal(batch[name][[0, 2]], tensor)
        assert not batch[name][1].any()
    nothing = store.gather(np.array([-1, -1]))
    assert not any(tensor.any() for tensor in nothing.values())


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_field_in_place_holds_what_a_gather_gives(tmp_path, items, dtype, monkeypatch):
    store = items.build(tmp_path, dtype)
    assert isinstance(store.gather(np.arange(4), ("memory",))["memory"], torch.Tensor)  # small
    monkeypatch.setattr(reader, "_LARGE", 0)
    for rows in ([3, -1, 4, -1, 3], [-1, -1]):
        gathered = store.gather(np.array(rows))
        left = store.gather(np.array(rows), ("memory",))
        assert torch.equal(left["pooled"], gathered["pooled"])
        for sample, expected in zip(left["memory"], gathered["memory"], strict=True):
            assert sample.dtype == expected.dtype
            length = sample.shape[2]
            assert torch.equal(sample, expected[:, :, :length])
            assert not expected[:, :, length:].any()


def test_a_store_travels_to_other_processes_without_its_table(tmp_path, items):
    store = items.build(tmp_path)
    message = pickle.dumps(store)
    assert len(message) < 2000
    rows = np.array([2, 9])
    build_one(tmp_path, items.spec(), ["new"], lambda _: items.padded(["new"]))  # rows stay
    assert torch.equal(pickle.loads(message).gather(rows)["memory"], store.gather(rows)["memory"])
