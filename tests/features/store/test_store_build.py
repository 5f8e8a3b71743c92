import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cache_items import Items, build_one

from epic_pl.errors import CacheError, DataError
from epic_pl.features.store.build import Wanted, build
from epic_pl.features.store.manifest import Index, Manifest
from epic_pl.features.store.progress import require_disk
from epic_pl.features.store.reader import FeatureStore
from epic_pl.features.store.spec import Field, StoreSpec
from epic_pl.features.store.writer import Writer

SMALL = 4 * 1024


def fill(root, items, hashes=None, **options):
    chosen = Items(0, items.ragged)
    chosen.hashes = items.hashes if hashes is None else hashes
    options = {"batch_size": 3, "shard_bytes": SMALL, "progress": False} | options
    store = build_one(root, items.spec(), chosen.hashes, chosen.produce, **options)
    return store, chosen.asked


def stored(root, pattern="*"):
    return sorted(root.glob(f"[it]*-*/{pattern}"))  # not the locks, which lie beside


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in stored(root)}


def assert_same(root, other):
    mine, theirs = contents(root), contents(other)
    assert sorted(mine) == sorted(theirs)
    assert all(mine[name] == theirs[name] for name in mine)


def run(root, *arguments):
    command = [sys.executable, str(Path(__file__).with_name("fill_store.py")), str(root)]
    return subprocess.Popen([*command, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fixed", "ragged"])
def test_killed_at_any_moment_and_continued_gives_the_same_bytes(tmp_path, kind):
    assert run(tmp_path / "whole", kind, 60, 0, 1, 0).wait(60) == 0
    chance = random.Random(kind)
    left = []
    for _ in range(4):
        process = run(tmp_path / "killed", kind, 60, 0, 1, 0.05)
        # imports take their time, and must not be all that is killed
        deadline = time.monotonic() + 30
        while not stored(tmp_path / "killed", ".shard*.partial"):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.25))
        process.kill()
        process.wait()
        left.append(len(stored(tmp_path / "killed", "shard-*")))
    assert left == sorted(left)  # nothing whole was lost
    assert not stored(tmp_path / "killed", "manifest.json")
    last = run(tmp_path / "killed", kind, 60, 0, 1, 0)
    output, _ = last.communicate(timeout=60)
    assert last.returncode == 0
    asked = int(output.split()[-1])
    assert asked <= 60 - left[-1] + (4 if kind == "ragged" else 0)  # lengths are sampled first
    assert_same(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fixed", "ragged"])
def test_two_ranks_write_what_one_writes_and_share_the_work(tmp_path, kind):
    assert run(tmp_path / "one", kind, 60, 0, 1, 0).wait(60) == 0
    ranks = [run(tmp_path / "two", kind, 60, rank, 2, 0.1) for rank in (0, 1)]
    asked = [int(rank.communicate(timeout=100)[0].split()[-1]) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert min(asked) > 0
    assert sum(asked) <= 60 + (2 * 4 if kind == "ragged" else 0)  # none twice but the samples
    assert_same(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_a_rank_that_dies_is_stood_in_for(tmp_path):
    dead = run(tmp_path / "two", "fixed", 60, 1, 2, 30)
    while not stored(tmp_path / "two", ".shard*.partial"):
        time.sleep(0.01)
    living = run(tmp_path / "two", "fixed", 60, 0, 2, 0)
    deadline = time.monotonic() + 60
    while len(stored(tmp_path / "two", "shard-*")) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert living.poll() is None  # it waits for the shard that the other holds
    dead.kill()
    dead.wait()
    assert living.wait(60) == 0
    assert len(FeatureStore(Items(60, False).spec().folder(tmp_path / "two"))) == 60


def test_only_new_items_are_produced_and_appended(tmp_path, items):
    train, test = items.hashes[:13], [*items.hashes[10:], items.hashes[15]]
    first, _ = fill(tmp_path, items, train)
    before = {path: path.read_bytes() for path in first.folder.glob("shard-*")}
    store, asked = fill(tmp_path, items, test)
    names = {test[position] for position in asked}
    assert names == set(items.hashes[13:])
    assert store.rows(items.hashes).tolist() == list(range(23))
    assert all(path.read_bytes() == content for path, content in before.items())
    assert len(list(store.folder.glob("index-*"))) == 1
    whole, asked = fill(tmp_path, items)
    assert asked == []
    expected, _ = items.padded(items.hashes)
    batch = whole.gather(np.arange(23))
    assert torch.equal(batch["memory"], expected["memory"].nan_to_num())


@pytest.mark.parametrize("moment", ["Manifest.write", "Writer._remove_leftovers"])
def test_interrupted_while_it_is_published(tmp_path, items, monkeypatch, moment):
    def stop(*_):
        raise KeyboardInterrupt

    for root in (tmp_path / "a", tmp_path / "b"):
        fill(root, items, items.hashes[:13])
    with monkeypatch.context() as patch:
        patch.setattr(f"epic_pl.features.store.writer.{moment}", stop)
        with pytest.raises(KeyboardInterrupt):
            fill(tmp_path / "a", items)
    store = FeatureStore(items.spec().folder(tmp_path / "a"))  # whole, old or new
    assert len(store) == (13 if moment == "Manifest.write" else 23)
    for root in (tmp_path / "a", tmp_path / "b"):
        fill(root, items)
    assert_same(tmp_path / "a", tmp_path / "b")


def test_two_builds_of_different_items_at_once_lose_none(tmp_path, items):
    def produce(positions):
        if not items.asked:  # another process builds other items meanwhile
            fill(tmp_path, items, items.hashes[12:])
        return items.produce(positions)

    store = build_one(
        tmp_path, items.spec(), items.hashes[:14], produce, shard_bytes=SMALL, progress=False
    )
    assert len(store) == 23
    expected, _ = items.padded(items.hashes)
    batch = store.gather(store.rows(items.hashes))
    assert torch.equal(batch["memory"], expected["memory"].nan_to_num())
    assert len(stored(tmp_path, "shard-*")) == len(Manifest.read(store.folder).shards)


def test_repeated_items_are_stored_once_as_first_given(tmp_path, items):
    order = [items.hashes[number] for number in (4, 2, 4, 0, 2)]
    store, _ = fill(tmp_path, items, order)
    assert len(store) == 3
    assert store.rows(order).tolist() == [0, 1, 0, 2, 1]


def test_a_lost_or_truncated_shard_is_written_again(tmp_path, items):
    store, _ = fill(tmp_path / "a", items)
    fill(tmp_path / "b", items)
    shards = sorted(store.folder.glob("shard-*"))
    assert len(shards) > 2
    shards[0].unlink()
    shards[-1].write_bytes(shards[-1].read_bytes()[:100])
    _, asked = fill(tmp_path / "a", items)
    assert 0 < len(set(asked)) < 23 or items.ragged
    assert_same(tmp_path / "a", tmp_path / "b")


def test_a_lost_shard_whose_items_are_not_given_is_given_up(tmp_path, items):
    store, _ = fill(tmp_path, items, items.hashes[:12])
    lost = sorted(store.folder.glob("shard-*"))[0]
    size = Manifest.read(store.folder).shards[0].items
    lost.unlink()
    store, _ = fill(tmp_path, items, items.hashes[12:])
    assert len(store) == 23 - size
    assert store.rows(items.hashes[:size]).tolist() == [-1] * size
    batch = store.gather(store.rows(items.hashes[size:]))
    expected, _ = items.padded(items.hashes[size:])
    assert torch.equal(batch["memory"], expected["memory"].nan_to_num())


def test_a_lost_index_is_written_again_from_the_shards(tmp_path, items):
    store, _ = fill(tmp_path, items)
    next(store.folder.glob("index-*")).unlink()
    store, _ = fill(tmp_path, items)
    assert store.rows(items.hashes).tolist() == list(range(23))


def test_files_of_an_interrupted_other_plan_go_once_they_are_superseded(tmp_path, items):
    class Stop(Exception):
        pass

    source = Items(23, items.ragged)
    calls = []

    def produce(positions):
        calls.append(positions)
        if len(calls) > 8:
            raise Stop
        return source.produce(positions)

    other = items.hashes[::-1]
    source.hashes = other
    with pytest.raises(Stop):
        build_one(
            tmp_path, items.spec(), other, produce, batch_size=1, shard_bytes=SMALL, progress=False
        )
    folder = items.spec().folder(tmp_path)
    left = list(folder.glob("shard-*"))
    assert left
    assert not list(folder.glob(".*partial"))
    fill(tmp_path, items, items.hashes[:3])
    assert all(path.exists() for path in left)  # not stored yet: they may be gone on with
    fill(tmp_path, items)
    assert not any(path.exists() for path in left)


def test_the_disk_is_checked_before_anything_is_produced(tmp_path, items, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(CacheError, match=r"of 23 items.* needs .*, but 1.0 MB are free.*int8"):
        build_one(tmp_path, items.spec(), items.hashes, items.produce, batch_size=4, progress=False)
    assert len(items.asked) <= (4 if items.ragged else 0)  # a sample of lengths
    assert not list(items.spec().folder(tmp_path).glob("shard-*"))


def test_estimate_and_progress_are_printed_and_only_on_rank_0(tmp_path, items, capsys):
    fill(tmp_path / "0", items, progress=True)
    printed = capsys.readouterr()
    assert "of 23 items, about" in printed.out
    assert len(printed.out.splitlines()) == 1
    assert "ETA" in printed.err
    fill(tmp_path / "1", items, progress=True, rank=1, world_size=2)
    assert capsys.readouterr() == ("", "")


def test_the_barrier_is_called_before_the_first_byte_and_once_the_store_is_there(tmp_path, items):
    seen = []
    fill(tmp_path, items, barrier=lambda: seen.append(items.spec().folder(tmp_path).exists()))
    assert seen == [False, True]
    seen.clear()

    def look():
        seen.append(len(FeatureStore(items.spec().folder(tmp_path))))

    fill(tmp_path, items, [*items.hashes, "new"], barrier=look)
    assert seen == [23, 24]


def test_the_sizes_of_several_stores_are_looked_at_together(tmp_path, monkeypatch, capsys):
    both = [Items(500, ragged) for ragged in (False, True)]
    wanted = [Wanted(each.spec(), each.hashes, each.produce) for each in both]
    # room for each of them, but not for both, beside the 64 MB that stay free
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=64_000_000 + 600_000))
    for one in wanted:
        writer = Writer(tmp_path, one.spec, one.hashes, one.produce, 4, SMALL)
        require_disk(tmp_path, [writer.addition()], show=False)
    with pytest.raises(
        CacheError, match=r"image features .* and text features .* needs \d+\.\d kB, and 64.0 MB"
    ):
        build(tmp_path, wanted, batch_size=100)
    assert not list(tmp_path.iterdir())
    assert not both[0].asked
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**12))
    capsys.readouterr()
    stores = build(tmp_path, wanted, batch_size=100)
    assert [len(store) for store in stores] == [500, 500]
    (line,) = capsys.readouterr().out.splitlines()
    assert "image features of 500 items, about 500.0 kB (1.0 kB each, float32) and text" in line
    assert " in all, 1.0 TB free" in line
    build(tmp_path, wanted)
    assert capsys.readouterr().out == ""  # nothing to add


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (torch.tensor([[1.0, 2], [3, float("nan")]]), "float32", "item b is not finite"),
        (torch.tensor([[1e6, 2], [3, 4]]), "float16", "item a is not finite.*bfloat16"),
        (torch.tensor([[1.0, float("inf")], [3, 4]]), "int8", "item a is not finite"),
    ],
)
def test_features_that_cannot_be_stored(tmp_path, value, dtype, message):
    spec = StoreSpec("image", {}, (Field("pooled", (2,)),), dtype)
    with pytest.raises(CacheError, match=message):
        build_one(tmp_path, spec, ["a", "b"], lambda _: ({"pooled": value}, None), progress=False)
    assert not list(spec.folder(tmp_path).glob("*shard*"))


def test_errors_of_the_producer_are_its_own(tmp_path, items):
    def produce(positions):
        raise FileNotFoundError(2, "no such file", "/pictures/1.jpg")

    def refuse(positions):
        raise DataError("1.jpg is truncated")

    for broken, kind in ((produce, FileNotFoundError), (refuse, DataError)):
        with pytest.raises(kind):
            build_one(tmp_path, items.spec(), items.hashes, broken, progress=False)
    with pytest.raises(CacheError, match="no item was given"):
        build_one(tmp_path, items.spec(), [], items.produce)


def test_a_folder_that_cannot_be_written(tmp_path, items):
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="could not be written"):
        fill(tmp_path / "file", items)


def test_a_complete_store_may_be_read_only(tmp_path, items, monkeypatch):
    fill(tmp_path, items, items.hashes[:9])
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere
    store, asked = fill(tmp_path, items, items.hashes[:9])
    assert (len(store), asked) == (9, [])
    with pytest.raises(CacheError, match="lacks 14 of 23 items"):
        fill(tmp_path, items)


class News:
    """Another process publishes all items, and so removes the index that was there, just before."""

    def __init__(self, root, items, original):
        self.root, self.items, self.original = root, items, original
        self.published = False

    def __call__(self, *arguments):
        if not self.published:
            self.published = True
            fill(self.root, self.items)
        return self.original(*arguments)


@pytest.mark.parametrize("moment", ["check_files", "read_index"])
def test_a_store_is_opened_as_it_is_after_another_process_published(
    tmp_path, items, moment, monkeypatch
):
    fill(tmp_path, items, items.hashes[:9])
    if moment == "check_files":
        news = News(tmp_path, items, Manifest.check_files)
        monkeypatch.setattr(Manifest, "check_files", lambda *arguments: news(*arguments))
    else:
        news = News(tmp_path, items, Index)
        monkeypatch.setattr("epic_pl.features.store.reader.Index", news)
    store = FeatureStore(items.spec().folder(tmp_path))
    assert news.published
    assert len(store) == len(items.hashes)


def test_items_that_another_process_published_meanwhile_are_not_encoded_again(
    tmp_path, items, monkeypatch
):
    fill(tmp_path, items, items.hashes[:9])
    news = News(tmp_path, items, Index)
    monkeypatch.setattr("epic_pl.features.store.plan.Index", news)
    store, asked = fill(tmp_path, items)
    assert news.published
    assert (len(store), asked) == (len(items.hashes), [])
