import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

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
KINDS = pytest.mark.parametrize("kind", ["fixed", "ragged"])


def fill(root, items, hashes=None, **options):
    chosen = Items(0, items.ragged)
    chosen.hashes = items.hashes if hashes is None else hashes
    store = chosen.build(root, **{"batch_size": 3, "shard_bytes": SMALL, **options})
    return store, chosen.asked


def stored(root, pattern="*"):
    return sorted(root.glob(f"[it]*-*/{pattern}"))  # not the locks, which lie beside


def assert_same(root, other):
    mine, theirs = (
        {path.relative_to(folder): path.read_bytes() for path in stored(folder)}
        for folder in (root, other)
    )
    assert mine == theirs


# several processes ----------------------------------------------------------------------------


def run(root, *arguments):
    command = [sys.executable, str(Path(__file__).with_name("fill_store.py")), str(root)]
    return subprocess.Popen([*command, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def wait_for_a_shard_in_progress(root, process):
    while not stored(root, ".shard*.partial"):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)


@pytest.mark.slow
@KINDS
def test_killed_at_any_moment_and_continued_gives_the_same_bytes(tmp_path, kind):
    assert run(tmp_path / "whole", kind, 60, 0, 1, 0).wait() == 0
    killed, chance, left = tmp_path / "killed", random.Random(kind), []
    for _ in range(4):
        process = run(killed, kind, 60, 0, 1, 0.05)
        wait_for_a_shard_in_progress(killed, process)
        time.sleep(chance.uniform(0, 0.25))
        process.kill()
        process.wait()
        left.append(len(stored(killed, "shard-*")))
    assert left == sorted(left)  # no whole shard was lost
    assert not stored(killed, "manifest.json")
    last = run(killed, kind, 60, 0, 1, 0)
    asked = int(last.communicate()[0].split()[-1])
    assert last.returncode == 0
    assert asked <= 60 - left[-1] + (4 if kind == "ragged" else 0)  # lengths are sampled first
    assert_same(killed, tmp_path / "whole")


@pytest.mark.slow
@KINDS
def test_two_ranks_write_what_one_writes_and_share_the_work(tmp_path, kind):
    assert run(tmp_path / "one", kind, 60, 0, 1, 0).wait() == 0
    ranks = [run(tmp_path / "two", kind, 60, rank, 2, 0.1, "together") for rank in (0, 1)]
    asked = [int(rank.communicate()[0].split()[-1]) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert min(asked) > 0
    assert sum(asked) <= 60 + (2 * 4 if kind == "ragged" else 0)  # none twice but the samples
    assert_same(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_another_rank_writes_the_shards_of_one_that_dies(tmp_path):
    dead = run(tmp_path, "fixed", 60, 1, 2, 30)
    wait_for_a_shard_in_progress(tmp_path, dead)
    living = run(tmp_path, "fixed", 60, 0, 2, 0)
    while len(stored(tmp_path, "shard-*")) < 4:
        time.sleep(0.05)
    assert living.poll() is None  # it waits for the shard that the other holds
    dead.kill()
    dead.wait()
    assert living.wait() == 0
    assert len(FeatureStore(Items(60, False).spec().folder(tmp_path))) == 60


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

    store = build_one(tmp_path, items.spec(), items.hashes[:14], produce, shard_bytes=SMALL)
    assert len(store) == 23
    items.assert_in(store, items.hashes)
    assert len(stored(tmp_path, "shard-*")) == len(Manifest.read(store.folder).shards)


@pytest.mark.parametrize("moment", ["manifest.Manifest.check_files", "reader.Index", "plan.Index"])
def test_what_another_process_publishes_meanwhile_is_read(tmp_path, items, moment, monkeypatch):
    """It also removes the index that was there."""
    fill(tmp_path, items, items.hashes[:9])
    original = Manifest.check_files if "check_files" in moment else Index
    published = []

    def publish_first(*arguments):
        if not published:
            published.append(True)
            fill(tmp_path, items)
        return original(*arguments)

    monkeypatch.setattr(f"epic_pl.features.store.{moment}", publish_first)
    if moment == "plan.Index":
        store, asked = fill(tmp_path, items)
        assert asked == []
    else:
        store = FeatureStore(items.spec().folder(tmp_path))
    assert published
    assert len(store) == 23


# growing and mending --------------------------------------------------------------------------


def test_only_new_items_are_produced_and_appended(tmp_path, items):
    train, test = items.hashes[:13], [*items.hashes[10:], items.hashes[15]]
    first, _ = fill(tmp_path, items, train)
    before = {path: path.read_bytes() for path in first.folder.glob("shard-*")}
    store, asked = fill(tmp_path, items, test)
    assert {test[position] for position in asked} == set(items.hashes[13:])
    assert store.rows(items.hashes).tolist() == list(range(23))
    assert all(path.read_bytes() == content for path, content in before.items())
    assert len(list(store.folder.glob("index-*"))) == 1
    whole, asked = fill(tmp_path, items)
    assert asked == []
    items.assert_in(whole, items.hashes)


def test_repeated_items_are_stored_once_as_first_given(tmp_path, items):
    order = [items.hashes[number] for number in (4, 2, 4, 0, 2)]
    store, _ = fill(tmp_path, items, order)
    assert len(store) == 3
    assert store.rows(order).tolist() == [0, 1, 0, 2, 1]


def test_lost_and_truncated_files_are_written_again(tmp_path, items):
    store, _ = fill(tmp_path / "a", items)
    fill(tmp_path / "b", items)
    shards = sorted(store.folder.glob("shard-*"))
    shards[0].unlink()
    shards[-1].write_bytes(shards[-1].read_bytes()[:100])
    _, asked = fill(tmp_path / "a", items)
    assert 0 < len(set(asked)) < 23 or items.ragged
    assert_same(tmp_path / "a", tmp_path / "b")
    next(store.folder.glob("index-*")).unlink()
    store, asked = fill(tmp_path / "a", items)
    assert asked == []
    assert_same(tmp_path / "a", tmp_path / "b")


def test_a_lost_shard_whose_items_are_not_given_is_dropped(tmp_path, items):
    store, _ = fill(tmp_path, items, items.hashes[:12])
    sorted(store.folder.glob("shard-*"))[0].unlink()
    size = Manifest.read(store.folder).shards[0].items
    store, _ = fill(tmp_path, items, items.hashes[12:])
    assert len(store) == 23 - size
    assert store.rows(items.hashes[:size]).tolist() == [-1] * size
    items.assert_in(store, items.hashes[size:])


def test_shards_of_an_interrupted_build_go_once_their_items_are_stored(tmp_path, items):
    reverse = items.hashes[::-1]

    def produce(positions):
        if len(items.asked) > 8:
            raise DataError("stop")
        items.asked += positions
        return items.padded([reverse[position] for position in positions])

    with pytest.raises(DataError):
        build_one(tmp_path, items.spec(), reverse, produce, batch_size=1, shard_bytes=SMALL)
    folder = items.spec().folder(tmp_path)
    left = list(folder.glob("shard-*"))
    assert left
    assert not list(folder.glob(".*partial"))
    fill(tmp_path, items, items.hashes[:3])
    assert all(path.exists() for path in left)  # a later build may continue with them
    fill(tmp_path, items)
    assert not any(path.exists() for path in left)


def test_a_complete_store_may_be_read_only(tmp_path, items, monkeypatch):
    fill(tmp_path, items, items.hashes[:9])
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere
    store, asked = fill(tmp_path, items, items.hashes[:9])
    assert (len(store), asked) == (9, [])
    with pytest.raises(CacheError, match="lacks 14 of 23 items"):
        fill(tmp_path, items)


# messages -------------------------------------------------------------------------------------


def test_the_disk_is_checked_for_all_stores_together(tmp_path, monkeypatch, capsys):
    both = [Items(500, ragged) for ragged in (False, True)]
    wanted = [Wanted(each.spec(), each.hashes, each.produce) for each in both]
    # room for each of them, but not for both, beside the 64 MB that stay free
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=64_000_000 + 600_000))
    for one in wanted:
        writer = Writer(tmp_path, one.spec, one.hashes, one.produce, 4, SMALL)
        require_disk(tmp_path, [writer.addition()], show=False)
    needs = r"image features .* and text features .* needs \d+\.\d kB, and 64.0 MB .* free.*int8"
    with pytest.raises(CacheError, match=needs):
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


def test_estimate_and_progress_are_printed_on_rank_0_only(tmp_path, items, capsys):
    fill(tmp_path / "0", items, progress=True)
    printed = capsys.readouterr()
    assert "of 23 items, about" in printed.out
    assert "ETA" in printed.err
    fill(tmp_path / "1", items, progress=True, rank=1, world_size=2)
    assert capsys.readouterr() == ("", "")


def test_the_barrier_is_called_before_the_first_byte_and_once_the_store_is_complete(
    tmp_path, items
):
    seen, folder = [], items.spec().folder(tmp_path)
    fill(tmp_path, items, barrier=lambda: seen.append(folder.exists()))
    assert seen == [False, True]
    more = [*items.hashes, "new"]
    fill(tmp_path, items, more, barrier=lambda: seen.append(len(FeatureStore(folder))))
    assert seen[2:] == [23, 24]


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        ([[1.0, 2], [3, float("nan")]], "float32", "item b is not finite"),
        ([[1e6, 2], [3, 4]], "float16", "item a is not finite.*bfloat16"),
        ([[1.0, float("inf")], [3, 4]], "int8", "item a is not finite"),
    ],
)
def test_numbers_that_are_not_finite_once_stored_are_refused(tmp_path, value, dtype, message):
    spec = StoreSpec("image", {}, (Field("pooled", (2,)),), dtype)
    with pytest.raises(CacheError, match=message):
        build_one(tmp_path, spec, ["a", "b"], lambda _: ({"pooled": torch.tensor(value)}, None))
    assert not list(spec.folder(tmp_path).glob("*shard*"))


@pytest.mark.parametrize(
    "error", [FileNotFoundError(2, "no such file", "/pictures/1.jpg"), DataError("truncated")]
)
def test_errors_of_the_producer_are_its_own(tmp_path, items, error):
    def produce(positions):
        raise error

    with pytest.raises(type(error)):
        build_one(tmp_path, items.spec(), items.hashes, produce)


def test_what_cannot_be_built_is_refused(tmp_path, items):
    with pytest.raises(CacheError, match="no item was given"):
        fill(tmp_path, items, [])
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="could not be written"):
        fill(tmp_path / "file", items)
