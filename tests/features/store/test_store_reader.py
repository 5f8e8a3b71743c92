import gc
import json
import pickle
import resource
from dataclasses import replace

import numpy as np
import pytest
import torch
from cache_items import build_one

from epic_pl.errors import CacheError
from epic_pl.features.store.reader import FeatureStore
from epic_pl.features.store.spec import Field, StoreSpec

TOLERANCE = {"float32": 0.0, "float16": 1e-3, "bfloat16": 8e-3}
SMALL = 4 * 1024  # bytes: a handful of items in each shard


def make(root, items, dtype="float32", shard_bytes=SMALL):
    return items.build(root, dtype, shard_bytes=shard_bytes, batch_size=3)


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
    store = make(tmp_path, items, dtype, shard_bytes)
    for size in (1, 8, 23):
        names = rng.choice(items.hashes, size).tolist()  # with repetitions
        batch = store.gather(store.rows(names))
        assert batch["memory"].dtype == getattr(torch, dtype)
        assert_batch(batch, items, names, TOLERANCE[dtype])


def test_int8_is_within_half_a_step_of_each_vector(tmp_path, items):
    store = make(tmp_path, items, "int8")
    batch = store.gather(store.rows(items.hashes))
    expected, _ = items.padded(items.hashes)
    for name in ("memory", "pooled"):
        exact = expected[name].nan_to_num()
        step = exact.abs().amax(-1, keepdim=True) / 127
        assert batch[name].dtype == torch.float32
        # half a step, and the 2^-10 by which the float16 scale is rounded up
        assert ((batch[name] - exact).abs() <= 0.5 * step * (1 + 2**-9) + 1e-9).all()


def test_int8_keeps_tiny_and_huge_vectors(tmp_path):
    spec = StoreSpec("image", {}, (Field("pooled", (4, 16)),), "int8")
    base = torch.linspace(-1, 1, 16)
    value = torch.stack([base * 1e6, base, base * 1e-5, base * 0])
    build_one(tmp_path, spec, ["a"], lambda _: ({"pooled": value[None]}, None), progress=False)
    read = FeatureStore(spec.folder(tmp_path)).gather(np.array([0]))["pooled"][0]
    assert ((read - value).abs().amax(1) <= value.abs().amax(1) * 0.009).all()
    assert not read[3].any()


def test_padding_is_not_stored(tmp_path, items):
    store = make(tmp_path, items, "float16", 1 << 20)
    pooled = 24  # 9 numbers of 2 bytes, up to a whole word
    tokens = sum(items.length(name) if items.ragged else 5 for name in items.hashes)
    numbers = 2 * 3 * 8 * 2 * tokens + pooled * len(items.hashes)
    beside = 64 + 32 + len(items.hashes) * (20 if items.ragged else 16)
    (shard,) = store.folder.glob("shard-*")
    assert shard.stat().st_size == numbers + beside


def test_rows_and_lengths(tmp_path, items):
    store = make(tmp_path, items)
    rows = store.rows([items.hashes[5], "unknown", items.hashes[0]])
    assert rows.tolist() == [5, -1, 0]
    expected = [items.length(name) if items.ragged else 5 for name in items.hashes]
    assert store.lengths.tolist() == expected


def test_absent_items_are_zero(tmp_path, items):
    store = make(tmp_path, items)
    with pytest.raises(CacheError, match="no row 23"):
        store.gather(np.array([23]))
    batch = store.gather(np.array([3, -1, 4]))
    alone = store.gather(np.array([3, 4]))
    for name, tensor in alone.items():
        assert torch.equal(batch[name][[0, 2]], tensor)
        assert not batch[name][1].any()
    nothing = store.gather(np.array([-1, -1]))
    assert not any(tensor.any() for tensor in nothing.values())


def test_prefetch_changes_nothing(tmp_path, items):
    store = make(tmp_path, items)
    rows = np.array([20, 1, 1, 7])
    before = store.gather(rows)
    store.prefetch(np.array([20, -1, 7]))
    after = store.gather(rows)
    assert all(torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(CacheError, match="no row 99"):
        store.prefetch(np.array([99]))


def test_a_batch_in_use_is_never_written_over(tmp_path):
    spec = StoreSpec("image", {}, (Field("memory", (1 << 17,)),), "float32")

    def produce(positions):
        return {"memory": torch.tensor(positions).float()[:, None].expand(-1, 1 << 17)}, None

    names = [str(number) for number in range(6)]
    store = build_one(tmp_path, spec, names, produce, progress=False)
    held = [store.gather(np.array([row, row]))["memory"][1] for row in range(6)]
    assert [float(tensor.unique()) for tensor in held] == list(range(6))
    address = held.pop().untyped_storage().data_ptr()
    gc.collect()
    assert store.gather(np.array([0, 1]))["memory"].untyped_storage().data_ptr() == address


def test_a_store_travels_to_other_processes_without_its_table(tmp_path, items):
    store = make(tmp_path, items)
    message = pickle.dumps(store)
    assert len(message) < 1000
    rows = np.array([2, 9])
    assert torch.equal(pickle.loads(message).gather(rows)["memory"], store.gather(rows)["memory"])


@pytest.mark.slow
def test_half_a_million_items_are_found_without_a_table_in_memory(tmp_path):
    spec = StoreSpec("image", {}, (Field("pooled", (1,)),), "float32")
    names = [f"{number:x}" for number in range(500_000)]

    def produce(positions):
        return {"pooled": torch.tensor(positions).float()[:, None]}, None

    build_one(tmp_path, spec, names, produce, batch_size=100_000, progress=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    store = FeatureStore(spec.folder(tmp_path))
    asked = np.random.default_rng(0).choice(500_000, 1000)
    assert store.rows([names[row] for row in asked]).tolist() == asked.tolist()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000  # KB


def test_any_change_of_a_spec_but_the_encoders_name_is_another_key(items):
    specs = [
        items.spec(),
        items.spec("float16"),
        items.spec(level="boundary"),
        items.spec(layers=[8]),
    ]
    assert len({spec.key for spec in specs}) == 4
    assert replace(specs[0], encoder="/moved/elsewhere").key == specs[0].key


def test_keys_ignore_the_order_of_entries():
    field = (Field("pooled", (3,)),)
    one = StoreSpec("image", {"a": 1, "b": (2, 3)}, field)
    assert one.key == StoreSpec("image", {"b": [2, 3], "a": 1}, field).key
    assert StoreSpec.from_json(json.loads(json.dumps(one.to_json()))).key == one.key


def test_a_changed_manifest_is_refused(tmp_path, items):
    store = make(tmp_path, items)
    path = store.folder / "manifest.json"
    path.write_text(path.read_text().replace('"level": "layers"', '"level": "layer2"'))
    with pytest.raises(CacheError, match=r"manifest.json was changed"):
        FeatureStore(items.spec().folder(tmp_path))
    path.write_text("{")
    with pytest.raises(CacheError, match=r"manifest.json is damaged"):
        FeatureStore(items.spec().folder(tmp_path))
    path.unlink()
    with pytest.raises(CacheError, match="not complete"):
        FeatureStore(items.spec().folder(tmp_path))


def test_a_store_under_another_name_is_refused(tmp_path, items):
    folder = items.spec("float16").folder(tmp_path)
    make(tmp_path, items).folder.rename(folder)
    with pytest.raises(CacheError, match="holds something else than its name says"):
        FeatureStore(folder)


def test_a_truncated_or_swapped_file_is_refused(tmp_path, items):
    store = make(tmp_path, items)
    first, second = sorted(store.folder.glob("shard-*"))[:2]
    index = next(store.folder.glob("index-*"))
    whole = first.read_bytes()
    first.write_bytes(whole[:-1])
    with pytest.raises(CacheError, match=rf"{first.name} is missing or truncated.*cache verify"):
        FeatureStore(items.spec().folder(tmp_path))
    first.write_bytes(b"\0" * len(whole))
    with pytest.raises(CacheError, match=f"{first.name} is not the one"):
        FeatureStore(items.spec().folder(tmp_path)).gather(np.array([0]))
    first.write_bytes(whole)
    second.unlink()
    with pytest.raises(CacheError, match=second.name):
        FeatureStore(items.spec().folder(tmp_path))
    make(tmp_path, items)
    index.write_bytes(index.read_bytes()[::-1])
    with pytest.raises(CacheError, match=rf"{index.name} was changed"):
        FeatureStore(items.spec().folder(tmp_path))
