import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cache_items import SMALL, Items, build_one

from epic_pl.errors import CacheError, DataError
from epic_pl.features.store.build import Wanted, build
from epic_pl.features.store.reader import FeatureStore
from epic_pl.features.store.spec import Field, StoreSpec


def fill(root, items, hashes=None, **options):
    chosen = Items(0, items.ragged)
    chosen.hashes = items.hashes if hashes is None else hashes
    return chosen.build(root, **options), chosen.asked


def stored(root, pattern="*"):
    return sorted(root.glob(f"[it]*-*/{pattern}"))  # not the locks, which lie beside


def assert_same(root, other):
    mine, theirs = (
        {path.relative_to(folder): path.read_bytes() for path in stored(folder)}
        for folder in (root, other)
    )
    assert mine == theirs


def run(root, *arguments):
    command = [sys.executable, str(Path(__file__).with_name("fill_store.py")), str(root)]
    return subprocess.Popen([*command, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def wait_until(condition, process):
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_processes_lose_no_shard_and_others_continue_to_the_same_bytes(tmp_path):
    items, root = Items(60, True), tmp_path / "killed"
    fill(tmp_path / "whole", items, batch_size=4, shard_bytes=12 * 1024)
    first = run(root, 0, 1, 0.1)
    wait_until(lambda: len(stored(root, "shard-*")) > 1, first)
    first.kill()
    first.wait()
    left, whole = (len(stored(each, "shard-*")) for each in (root, tmp_path / "whole"))
    ranks = [run(root, rank, 2, 0, "together") for rank in (0, 1)]
    asked = sum(int(rank.communicate()[0].split()[-1]) for rank in ranks)
    assert asked <= 60 * (whole - left) / whole + 4
    assert_same(root, tmp_path / "whole")


def test_two_builds_of_different_items_at_once_lose_none(tmp_path, items):
    def produce(positions):
        if not items.asked:  # another process builds other items meanwhile
            fill(tmp_path, items, items.hashes[12:])
        return items.produce(positions)

    store = build_one(tmp_path, items.spec(), items.hashes[:14], produce, shard_bytes=SMALL)
    items.assert_in(store, items.hashes)


def test_only_new_items_are_produced_and_appended(tmp_path, items):
    train, test = items.hashes[:13], [*items.hashes[10:], items.hashes[15]]
    fill(tmp_path, items, train)
    before = {path: path.read_bytes() for path in stored(tmp_path, "shard-*")}
    store, asked = fill(tmp_path, items, test)
    assert {test[position] for position in asked} == set(items.hashes[13:])
    assert len(store) == 23  # items that are given twice are stored once
    assert all(path.read_bytes() == content for path, content in before.items())
    whole, asked = fill(tmp_path, items)
    assert asked == []
    items.assert_in(whole, items.hashes)


def test_lost_and_truncated_files_are_written_again(tmp_path, items):
    fill(tmp_path / "a", items)
    fill(tmp_path / "b", items)
    shards, (spec,) = stored(tmp_path / "a", "shard-*"), stored(tmp_path / "a", "spec.json")
    of_six = [path for path in shards if path.stat().st_size > SMALL / 2]  # full ones
    of_six[0].unlink()
    of_six[-1].write_bytes(of_six[-1].read_bytes()[:100])
    spec.write_text("{")
    fill(tmp_path / "a", items)
    assert_same(tmp_path / "a", tmp_path / "b")
    _, asked = fill(tmp_path / "a", items)
    assert asked == []


@pytest.mark.parametrize("error", [FileNotFoundError(2, "no such file"), DataError("truncated")])
def test_an_error_of_the_producer_is_raised_and_earlier_shards_are_read(tmp_path, items, error):
    def produce(positions):
        if len(items.asked) > 8:
            raise error
        return items.produce(positions)

    with pytest.raises(type(error)):
        build_one(tmp_path, items.spec(), items.hashes, produce, batch_size=1, shard_bytes=SMALL)
    assert stored(tmp_path, "shard-*")
    assert not stored(tmp_path, ".*partial")
    store, asked = fill(tmp_path, items)
    assert len(asked) < 23
    items.assert_in(store, items.hashes)


def test_a_complete_store_may_be_read_only(tmp_path, items, monkeypatch):
    fill(tmp_path, items, items.hashes[:9])

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)  # root may write anywhere
    store, asked = fill(tmp_path, items, items.hashes[:9])
    assert (len(store), asked) == (9, [])
    with pytest.raises(CacheError, match=r"could not be written.*cache\.folder or EPIC_PL_CACHE"):
        fill(tmp_path, items)


def test_the_disk_is_checked_for_all_stores_together(tmp_path, monkeypatch, capsys):
    both = [Items(500, ragged) for ragged in (False, True)]
    wanted = [Wanted(each.spec(), each.hashes, each.produce, mean_tokens=4.0) for each in both]
    sizes = [500 * each.spec.bytes_per_item(each.mean_tokens) for each in wanted]
    assert sizes[0] == 500 * (16 + 4 * (2 * 3 * 5 * 8 + 9))
    assert sizes[1] == 500 * (16 + 4 * (2 * 3 * 4 * 8 + 9))
    # room for each of them, but not for both, beside the 64 MB that stay free
    free = SimpleNamespace(free=64_000_000 + int(max(sizes)) + 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    needs = r"image features .* and text features .* needs \d+\.\d kB, and 64.0 MB .* free.*int8"
    with pytest.raises(CacheError, match=needs):
        build(tmp_path, wanted, batch_size=100)
    assert not list(tmp_path.iterdir())
    assert not both[0].asked
    free.free = 10**12
    capsys.readouterr()
    stores = build(tmp_path, wanted, batch_size=100)
    assert [len(store) for store in stores] == [500, 500]
    printed = capsys.readouterr()
    assert "image features of 500 items, about 506.0 kB and text" in printed.out
    assert "500/500" in printed.err
    build(tmp_path, wanted)
    assert capsys.readouterr().out == ""  # nothing to add
    with pytest.raises(CacheError, match="were changed"):  # the other rank's half is missing
        build(tmp_path / "1", wanted, rank=1, world_size=2)
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


def test_what_cannot_be_built_is_refused(tmp_path, items):
    with pytest.raises(CacheError, match="no item was given"):
        fill(tmp_path, items, [])
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="could not be written"):
        fill(tmp_path / "file", items)
