import hashlib
import io
import json

import numpy as np
import pytest
from rich.console import Console

from epic_pl.errors import CacheError
from epic_pl.features.commands import run
from epic_pl.features.store.build import default_root
from epic_pl.features.store.spec import canonical
from epic_pl.features.store.upkeep import clear, info, verify


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


def printed(console):
    return console.file.getvalue()


def make(root, items, dtype="float16"):
    return items.build(root, dtype, shard_bytes=4096)


def test_info_shows_each_store(tmp_path, items, console):
    store = make(tmp_path, items)
    (shown,) = info(tmp_path, console)
    assert (shown.items, shown.problem, shown.spec) == (23, "", store.spec)
    assert shown.nbytes > sum(path.stat().st_size for path in store.folder.glob("shard-*"))
    for word in (store.folder.name, "tiny", "layers", "float16", "23", "complete"):
        assert word in printed(console)
    assert info(store.folder, console) == [shown]


def test_info_says_what_is_wrong(tmp_path, items, console):
    make(tmp_path, items, "float16").folder.joinpath("manifest.json").unlink()
    broken = make(tmp_path, items, "float32")
    lost = next(broken.folder.glob("shard-*"))
    lost.unlink()
    changed = make(tmp_path, items, "int8").folder / "manifest.json"
    changed.write_text(changed.read_text().replace("tiny", "huge"))
    problems = {store.spec.dtype: store.problem for store in info(tmp_path, console)}
    assert "incomplete" in problems["float16"]
    assert lost.name in problems["float32"]
    assert "was changed" in problems["int8"]


@pytest.mark.parametrize("where", [70, -80, -1])
def test_verify_names_a_shard_with_a_flipped_bit(tmp_path, items, console, where):
    store = make(tmp_path, items)
    assert not any(check.problem for check in verify(tmp_path, console))
    path = sorted(store.folder.glob("shard-*"))[1]
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[where] ^= 1
    path.write_bytes(damaged)
    (check,) = verify(store.folder, console)
    assert check.corrupt == (path,)
    assert path.name in printed(console)
    verify(store.folder, console, remove_corrupt=True)
    make(tmp_path, items)
    assert path.read_bytes() == whole


def test_verify_of_missing_files_index_and_manifest(tmp_path, items, console):
    store = make(tmp_path, items)
    index, shard = next(store.folder.glob("index-*")), next(store.folder.glob("shard-*"))
    shard.unlink()
    index.write_bytes(index.read_bytes()[::-1])
    (check,) = verify(tmp_path, console)
    assert set(check.corrupt) == {index, shard}
    verify(tmp_path, console, remove_corrupt=True)
    assert make(tmp_path, items).gather(np.arange(23))
    (store.folder / "manifest.json").unlink()
    (check,) = verify(tmp_path, console)
    assert "incomplete" in check.problem


def test_a_manifest_that_names_files_outside_of_the_store_is_refused(tmp_path, items, console):
    (tmp_path / "mine.bin").write_text("mine")
    path = make(tmp_path, items).folder / "manifest.json"
    plain = json.loads(path.read_text())
    plain["shards"][0]["name"] = "../mine.bin"
    del plain["checksum"]
    checksum = hashlib.sha256(canonical(plain).encode()).hexdigest()
    path.write_text(json.dumps(plain | {"checksum": checksum}))
    (check,) = verify(tmp_path, console, remove_corrupt=True)
    assert "'../mine.bin', which is no file of a store" in check.problem
    assert (tmp_path / "mine.bin").exists()


def test_clear_removes_stores_and_nothing_else(tmp_path, items, console):
    store = make(tmp_path, items)
    other = make(tmp_path, items, "int8")
    (tmp_path / "notes.txt").write_text("mine")
    (other.folder / "notes.txt").write_text("mine")
    assert store.folder.exists()
    assert clear(tmp_path, console) > 0
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {f"{other.folder.name}/notes.txt", "notes.txt"}


@pytest.mark.parametrize("command", [info, verify, clear])
def test_a_folder_without_stores_is_refused(tmp_path, console, command):
    (tmp_path / "holiday.jpg").write_text("")
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CacheError, match="no feature store in"):
            command(folder, console)
    assert (tmp_path / "holiday.jpg").exists()


def test_the_default_folder_moves_with_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path))
    assert default_root() == tmp_path / "features"


def test_the_command_line(tmp_path, items, monkeypatch):
    filled, root = [], str(tmp_path)
    monkeypatch.setattr("epic_pl.commands.fill_cache", filled.append)
    assert run(["build", "--config", "x.yaml"]) == 0
    assert filled == [["--config", "x.yaml"]]
    with pytest.raises(CacheError, match="no feature store"):
        run(["info", root])
    with pytest.raises(SystemExit):
        run(["tidy"])
    store = make(tmp_path, items)
    for arguments in (["--remove-corrupt", root], [root, "--remove-corrupt"]):
        assert run(["verify", *arguments]) == 0
    (store.folder / "manifest.json").unlink()
    assert [run([command, root]) for command in ("info", "verify", "clear")] == [1, 1, 0]
