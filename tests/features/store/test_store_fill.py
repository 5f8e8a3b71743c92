import multiprocessing
import os
import pickle
import shutil
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cache_items import FIELDS, Items, build_one
from safetensors.torch import load, save

from epic_pl.features.store import shard
from epic_pl.features.store.fill import StoreRequest, fill_stores
from epic_pl.features.store.reader import FeatureStore
from epic_pl.features.store.spec import Field, StoreSpec
from epic_pl.utils.errors import CacheError, DataError
from epic_pl.utils.share import Share


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.glob("*/*")}


SIXTY = {"batch_size": 4, "shard_bytes": 12 * 1024}


def fill_in_process(root, asked, pause=0.0, barrier=None, **options):
    """Fill a store of sixty items, slowly."""
    items = Items(60, ragged=True)

    def produce(positions):
        time.sleep(pause)
        return items.produce(positions)

    if barrier:
        options["barrier"] = barrier.wait
    build_one(root, items.spec(), items.hashes, produce, **SIXTY, **options)
    asked.put(len(items.asked))


@pytest.mark.slow
def test_killed_processes_lose_no_shard_and_others_continue_to_the_same_bytes(tmp_path):
    root, whole = tmp_path / "killed", tmp_path / "whole"
    Items(60, ragged=True).build(whole, **SIXTY)
    spawn = multiprocessing.get_context("spawn")
    asked, barrier = spawn.Queue(), spawn.Barrier(2)
    first = spawn.Process(target=fill_in_process, args=(root, asked, 0.1))
    first.start()
    while len(list(root.glob("*/shard-*"))) < 2:
        assert first.is_alive(), "it ended before it could be killed"
        time.sleep(0.01)
    first.kill()
    first.join()
    left = len(list(root.glob("*/shard-*"))) / len(list(whole.glob("*/shard-*")))
    for rank in (0, 1):
        options = {"barrier": barrier, "share": Share(rank, 2)}
        spawn.Process(target=fill_in_process, args=(root, asked), kwargs=options).start()
    assert sum(asked.get(timeout=60) for _ in range(2)) <= 60 * (1 - left) + 4
    assert contents(root) == contents(whole)


def test_shards_that_start_one_after_another_lose_and_repeat_nothing(tmp_path, items):
    every, asked, root = list(items.hashes), [], tmp_path / "shards"
    Items(23, items.ragged).build(root, hashes=every[2:4])  # of an earlier table
    for index in (2, 0, 1):
        store = items.build(root, share=Share(index, 3), complete=index == 1)
        asked += items.asked
    assert sorted(asked) == [row for row in range(23) if row not in (2, 3)]
    items.assert_in(store, every)


def test_two_builds_of_different_items_at_once_lose_none(tmp_path, items):
    other = Items(23, items.ragged)

    def produce(positions):
        if not items.asked:  # another process builds other items meanwhile
            other.build(tmp_path, hashes=other.hashes[12:])
        return items.produce(positions)

    store = build_one(tmp_path, items.spec(), items.hashes[:14], produce)
    items.assert_in(FeatureStore(store.folder), items.hashes)


def test_only_new_items_are_produced_and_appended(tmp_path, items):
    every = list(items.hashes)
    items.build(tmp_path, hashes=every[:13])
    before = {path: path.read_bytes() for path in tmp_path.glob("*/shard-*")}
    folder = items.build(tmp_path, hashes=[*every[10:], every[15]]).folder
    assert {items.hashes[position] for position in items.asked} == set(every[13:])
    assert len(FeatureStore(folder)) == 23  # items that are given twice are stored once
    assert all(path.read_bytes() == content for path, content in before.items())
    whole = items.build(tmp_path, hashes=every)
    assert items.asked == []
    items.assert_in(whole, every)


def flipped(content, *places):
    """The content with one bit changed at some places."""
    changed = bytearray(content)
    for place in places:
        changed[place] ^= 1
    return bytes(changed)


CHANGES = {
    "no digests": lambda tensors: tensors.pop("digests"),
    "shape": lambda tensors: tensors.update(pooled=tensors["pooled"][:, 1:].contiguous()),
    "dtype": lambda tensors: tensors.update(pooled=tensors["pooled"].double()),
    "number": lambda tensors: tensors["pooled"][0, 0].mul_(1 + 1e-6),
    "not finite": lambda tensors: tensors["memory"][0].fill_(float("nan")),
    "fields": lambda tensors: tensors.update(memory=tensors["memory"].flip(0).contiguous()),
    "digests": lambda tensors: tensors.update(digests=tensors["digests"].flip(0).contiguous()),
    "lengths": lambda tensors: (
        tensors.update(lengths=tensors["lengths"].flip(0))
        if "lengths" in tensors
        else tensors["pooled"].neg_()
    ),
    "checksums": lambda tensors: tensors["checksums"].add_(1),
    "no checksums": lambda tensors: tensors.pop("checksums"),
}


@pytest.mark.parametrize(
    "damage", ["lost", "pipe", "link", "truncated", "zeros", "bits", "header", "other", *CHANGES]
)
def test_a_damaged_shard_is_left_out_and_written_again(tmp_path, items, damage):
    folder = items.build(tmp_path / "stores").folder
    sound = contents(tmp_path / "stores")
    other, path, *_ = sorted(folder.glob("shard-*"))
    outside = tmp_path / "notes.txt"
    content, tensors = path.read_bytes(), load(path.read_bytes())
    path.unlink()  # a mapped file must not change
    outside.write_text("mine")
    if damage == "pipe":
        os.mkfifo(path)
    elif damage == "link":
        path.symlink_to(outside)
    elif damage != "lost":
        ways = {
            "truncated": content[:-1],
            "zeros": bytes(len(content)),
            "bits": flipped(content, *range(len(content) // 2, len(content), 97)),
            "header": flipped(content, content.index(b"pooled")),
            "other": other.read_bytes(),
        }
        if damage in CHANGES:
            CHANGES[damage](tensors)
        path.write_bytes(ways.get(damage) or save(tensors))
        os.utime(path, ns=(1, 1))  # this process found it sound before
    silent = damage in ("lost", "pipe")
    with nullcontext() if silent else pytest.warns(UserWarning, match=str(path)):
        left = FeatureStore(folder)
    here = [name for name in items.hashes if left.find([name]) >= 0]
    assert 0 < len(here) == len(left) < 23
    items.assert_in(left, here)
    items.build(tmp_path / "stores")
    assert len(items.asked) == 23 - len(here)
    assert contents(tmp_path / "stores") == sound
    assert outside.read_text() == "mine"


def test_a_shard_that_repeats_the_items_of_another_or_is_of_another_store_is_left_out(
    tmp_path, items
):
    store = items.build(tmp_path)
    items.build(tmp_path / "other", layers=[2])
    first, second, *_ = sorted(store.folder.glob("shard-*"))
    (folder,) = (tmp_path / "other").iterdir()
    moved = (folder / second.name).read_bytes()
    assert len(moved) == len(second.read_bytes())
    second.unlink()
    second.write_bytes(moved)
    copy = first.with_name("shard-0000000000000000.safetensors")
    copy.write_bytes(first.read_bytes())
    with pytest.warns(UserWarning, match=str(copy)), pytest.warns(UserWarning, match=str(second)):
        left = FeatureStore(store.folder)
    assert len(left) == len(set(left.digests.tolist())) == 23 - len(load(moved)["digests"])
    items.assert_in(items.build(tmp_path), items.hashes)
    assert len(items.asked) == 23 - len(left)


def test_only_what_is_read_is_verified_and_only_once(tmp_path, items, monkeypatch):
    verified, checksum = [], shard._checksum

    def spy(spec, name, tensor):
        verified.append(name)
        return checksum(spec, name, tensor)

    monkeypatch.setattr(shard, "_checksum", spy)
    monkeypatch.setattr(shard, "_SOUND", set())
    whole = items.build(tmp_path)
    verified.clear()
    shard._SOUND.clear()
    request = StoreRequest(
        replace(items.spec(), fields=FIELDS[items.ragged][1:]), items.hashes[:1], items.produce
    )
    assert request.open(tmp_path) is not None
    assert sorted(verified) == ["digests", *["lengths"] * items.ragged, "pooled"]
    verified.clear()
    assert request.open(tmp_path) is not None
    pickle.loads(pickle.dumps(whole))
    assert "pooled" not in verified
    assert "memory" not in verified


@pytest.mark.parametrize("error", [FileNotFoundError(2, "no such file"), DataError("truncated")])
def test_an_error_of_the_producer_is_raised_and_earlier_shards_are_read(tmp_path, items, error):
    def produce(positions):
        if len(items.asked) > 8:
            raise error
        return items.produce(positions)

    with pytest.raises(type(error)):
        build_one(tmp_path, items.spec(), items.hashes, produce, batch_size=1)
    names = {path.name.partition("-")[0] for path in tmp_path.glob("*/*")}
    assert names == {"spec.json", "shard"}
    store = items.build(tmp_path)
    assert len(items.asked) < 23
    items.assert_in(store, items.hashes)


def test_a_complete_store_may_be_read_only(tmp_path, items, monkeypatch):
    every = list(items.hashes)
    items.build(tmp_path, hashes=every[:9])

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)  # root may write anywhere
    assert len(items.build(tmp_path)) == 9
    assert items.asked == []
    with pytest.raises(CacheError, match=r"could not be written.*cache\.folder or EPIC_PL_CACHE"):
        items.build(tmp_path, hashes=every)


def test_the_disk_is_checked_for_all_stores_together(tmp_path, monkeypatch, capsys):
    both = [Items(500, ragged) for ragged in (False, True)]
    requests = [StoreRequest(one.spec(), one.hashes, one.produce, mean_tokens=4.0) for one in both]
    sizes = [one.spec.nbytes(500, one.mean_tokens) for one in requests]
    assert sizes[0] == 500 * (16 + 4 * (2 * 3 * 5 * 8 + 9))
    assert sizes[1] == 500 * (16 + 8 + 4 * (2 * 3 * 4 * 8 + 9))
    # room for each of them, but not for both, beside the 64 MB that stay free
    free = SimpleNamespace(free=64_000_000 + int(max(sizes)) + 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    needs = (
        r"image features .* and text features .* needs \d+\.\d kB, and 64.0 MB .* free.*now float32"
    )
    with pytest.raises(CacheError, match=needs):
        fill_stores(tmp_path, requests, batch_size=100)
    assert not list(tmp_path.iterdir())
    assert not both[0].asked
    free.free = 10**12
    capsys.readouterr()
    stores = fill_stores(tmp_path, requests, batch_size=100)
    assert [len(store) for store in stores] == [500, 500]
    printed = capsys.readouterr()
    assert "image features of 500 items, about 506.0 kB and text" in printed.out
    assert "100%" in printed.err
    fill_stores(tmp_path, requests)
    assert capsys.readouterr().out == ""  # nothing to add
    with pytest.raises(CacheError, match="were changed"):  # the other rank's half is missing
        fill_stores(tmp_path / "1", requests, share=Share(1, 2), progress=False)
    assert capsys.readouterr() == ("", "")
    fill_stores(tmp_path / "2", requests, share=Share(1, 2), complete=False)
    assert "image features: 500 still missing" in capsys.readouterr().out  # all in the first share


def test_the_barrier_is_called_before_the_first_byte_and_once_the_store_is_complete(
    tmp_path, items
):
    seen, folder = [], items.spec().folder(tmp_path)
    items.build(tmp_path, barrier=lambda: seen.append(folder.exists()))
    assert seen == [False, True]
    more = [*items.hashes, "new"]
    items.build(tmp_path, hashes=more, barrier=lambda: seen.append(len(FeatureStore(folder))))
    assert seen[2:] == [23, 24]


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        ([[1.0, 2], [3, float("nan")]], "float32", "item b is not finite"),
        ([[1e6, 2], [3, 4]], "float16", "item a is not finite.*bfloat16"),
        ([[1.0, float("inf")], [3, 4]], "bfloat16", "item a is not finite"),
    ],
)
def test_numbers_that_are_not_finite_once_stored_are_refused(tmp_path, value, dtype, message):
    spec = StoreSpec("image", {}, (Field("pooled", (2,)),), dtype)
    with pytest.raises(CacheError, match=message):
        build_one(tmp_path, spec, ["a", "b"], lambda _: ({"pooled": torch.tensor(value)}, None))
    assert not list(spec.folder(tmp_path).glob("*shard*"))


def test_a_folder_that_is_a_file_is_refused(tmp_path, items):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="could not be written"):
        items.build(tmp_path / "file")


def test_the_next_batch_is_prepared_while_one_is_produced(tmp_path):
    items, begun = Items(10, ragged=False), [threading.Event() for _ in range(4)]

    def prepare(positions):
        begun[positions[0] // 3].set()
        return positions

    def produce(positions):
        assert begun[min(positions[0] // 3 + 1, 3)].wait(timeout=60)
        return items.produce(positions)

    requests = [StoreRequest(items.spec(), items.hashes, produce, prepare=prepare)]
    (store,) = fill_stores(tmp_path, requests, batch_size=3, progress=False)
    items.assert_in(store, items.hashes)
