"""Stores that are filled while they are read, beside stores that `build` fills."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from cache_items import Items

from epic_pl.errors import CacheError
from epic_pl.features import FeatureStore, GrowingStore, build
from epic_pl.features.store.manifest import Manifest
from epic_pl.lazy_tensor import whole

DTYPES = ("float32", "bfloat16", "float16", "int8")


def growing(root, items, dtype="float16", **options) -> GrowingStore:
    return GrowingStore(root, items.spec(dtype), **({"batch_size": 3} | options))


def read(store, items, names):
    """A batch, and the names that were encoded for it."""
    asked = []

    def produce(positions):
        asked.extend(names[position] for position in positions)
        return items.padded([names[position] for position in positions])

    return store.gather(names, produce), asked


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        assert torch.equal(one[name], other[name]), name


def stored(root, items, dtype="float16"):
    return Manifest.read(items.spec(dtype).folder(root)).index.items


@pytest.mark.parametrize("dtype", DTYPES)
def test_batches_are_those_of_a_built_store(tmp_path, items, rng, dtype):
    spec = items.spec(dtype)
    whole = build(tmp_path / "built", spec, items.hashes, items.produce, progress=False)
    store = growing(tmp_path, items, dtype)
    seen = set()
    for size in (5, 8, 23):
        names = rng.choice(items.hashes, size).tolist()  # with repetitions
        batch, asked = read(store, items, names)
        assert_same(batch, whole.gather(whole.rows(names)))
        assert sorted(asked) == sorted(set(names) - seen)
        seen |= set(names)
        if size == 8:
            store.flush()
            assert stored(tmp_path, items, dtype) == len(seen)
    store.flush()
    again = FeatureStore.open(tmp_path, spec)
    names = sorted(seen)
    assert_same(again.gather(again.rows(names)), whole.gather(whole.rows(names)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_item_is_the_same_before_and_after_it_is_written(tmp_path, items, dtype):
    store = growing(tmp_path, items, dtype)
    names = items.hashes[:7]
    before, _ = read(store, items, names)
    store.flush()
    after, asked = read(store, items, names)
    assert not asked
    assert_same(before, after)
    later, asked = read(growing(tmp_path, items, dtype), items, names)  # another run
    assert not asked
    assert_same(before, later)


def test_absent_items_are_zero_in_memory_and_on_the_disk(tmp_path, items):
    store = growing(tmp_path, items)
    nothing, asked = read(store, items, [None, None])
    assert not asked
    assert not any(tensor.any() for tensor in nothing.values())
    names = [None, items.hashes[0], None, items.hashes[1]]
    for _ in range(2):
        batch, _ = read(store, items, names)
        alone, _ = read(store, items, [names[1], names[3]])
        for name, tensor in alone.items():
            assert torch.equal(batch[name][[1, 3]], tensor)
            assert not batch[name][[0, 2]].any()
        store.flush()


def test_memory_is_bounded_and_a_kill_loses_no_more_than_that(tmp_path, items):
    size = 3 * items.one(items.hashes[0])["memory"].numel() * 2
    store = growing(tmp_path, items, shard_bytes=size)
    for name in items.hashes:
        read(store, items, [name])
        assert store.nbytes_in_memory < size
    kept = stored(tmp_path, items)  # nothing was flushed: so a killed run leaves it
    assert 0 < kept < len(items.hashes)
    _, asked = read(growing(tmp_path, items), items, items.hashes)
    assert asked == items.hashes[kept:]


def test_what_another_process_has_stored_meanwhile_is_kept(tmp_path, items):
    one, other = growing(tmp_path, items), growing(tmp_path, items)
    first, _ = read(one, items, items.hashes[:9])
    second, _ = read(other, items, items.hashes[5:14])
    one.flush()
    other.flush()
    assert stored(tmp_path, items) == 14
    store = FeatureStore.open(tmp_path, items.spec("float16"))
    assert_same(store.gather(store.rows(items.hashes[:9])), first)
    assert_same(store.gather(store.rows(items.hashes[5:14])), second)


def test_a_build_goes_on_where_a_growing_store_ended(tmp_path, items):
    store = growing(tmp_path, items)
    read(store, items, items.hashes[4:9])
    store.flush()
    build(tmp_path, items.spec("float16"), items.hashes, items.produce, progress=False)
    assert set(items.asked) >= {*range(4), *range(9, 23)}
    assert stored(tmp_path, items) == 23


def test_nothing_is_written_of_a_batch_that_cannot_be_stored(tmp_path, items):
    store = growing(tmp_path, items)

    def broken(positions):
        tensors, lengths = items.produce(positions)
        return tensors | {"pooled": torch.full_like(tensors["pooled"], float("inf"))}, lengths

    with pytest.raises(CacheError, match=r"'pooled' of the item item-1 is not finite"):
        store.gather(["item-1"], broken)
    store.flush()
    assert not items.spec("float16").folder(tmp_path).exists()


def test_a_store_that_cannot_be_written_says_so(tmp_path, items, monkeypatch):
    store = growing(tmp_path, items)
    read(store, items, items.hashes[:2])
    store.flush()
    read(store, items, items.hashes)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(CacheError, match="cannot be written"):
        store.flush()


def test_batches_in_use_survive_the_flush_of_a_full_shard(tmp_path):
    items = Items(23, False)
    store = growing(tmp_path, items, shard_bytes=1)  # every gather flushes
    batches = [read(store, items, [name])[0] for name in items.hashes]
    whole = FeatureStore.open(tmp_path, items.spec("float16"))
    rows = whole.rows(items.hashes)
    assert torch.equal(
        torch.cat([batch["memory"] for batch in batches]), whole.gather(rows)["memory"]
    )
    assert np.unique(rows).tolist() == list(range(23))


@pytest.mark.parametrize("ragged", [False, True], ids=["fixed", "ragged"])
@pytest.mark.parametrize("in_place", [(), ("memory",)], ids=["gathered", "in place"])
def test_threads_that_gather_while_another_writes_get_their_own_items(
    tmp_path, monkeypatch, ragged, in_place
):
    monkeypatch.setattr("epic_pl.features.store.in_place._LARGE", 0)
    items = Items(120, ragged)
    expected = {name: items.one(name) for name in items.hashes}
    store = growing(tmp_path, items, "float32")

    def gather(seed):
        def produce(positions):
            time.sleep(1e-4)  # an encoder lets other threads run
            return items.padded([names[position] for position in positions])

        chance = np.random.default_rng(seed)
        for _ in range(100):
            names = chance.choice(items.hashes, 4).tolist()
            batch = store.gather(names, produce, in_place)
            time.sleep(1e-4)  # meanwhile, what the batch is read from may be written
            memory = whole(batch["memory"])
            for row, name in enumerate(names):
                one = expected[name]["memory"]
                assert torch.equal(batch["pooled"][row], expected[name]["pooled"])
                assert torch.equal(memory[row, :, :, : one.shape[2]], one)

    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(gather, seed) for seed in range(3)]
        while not all(each.done() for each in running):
            store.flush()
    for each in running:
        each.result()
    store.flush()
    again = FeatureStore.open(tmp_path, items.spec())
    assert len(again) == 120
    rows = again.rows(items.hashes)
    pooled = torch.stack([expected[name]["pooled"] for name in items.hashes])
    assert torch.equal(again.gather(rows)["pooled"], pooled)
