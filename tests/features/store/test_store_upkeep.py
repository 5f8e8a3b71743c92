import pytest

from epic_pl.errors import CacheError
from epic_pl.features.commands import run
from epic_pl.features.store.build import default_root


def test_info_shows_each_store(tmp_path, items, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    store = items.build(tmp_path, "float16")
    (items.build(tmp_path, "int8").folder / "spec.json").write_text("{}")
    for folder in (tmp_path, store.folder):
        assert run(["info", str(folder)]) == 0
        printed = capsys.readouterr().out
        for word in (store.folder.name, "tiny", "layers", "float16", "23"):
            assert word in printed
        assert ("does not describe" in printed) == (folder == tmp_path)


@pytest.mark.parametrize("where", [100, -80, -1])
def test_verify_names_and_removes_a_shard_with_a_flipped_bit(tmp_path, items, capsys, where):
    store = items.build(tmp_path, "float16")
    assert run(["verify", str(tmp_path)]) == 0
    path = sorted(store.folder.glob("shard-*"))[1]
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[where] ^= 1
    path.unlink()  # a mapped file must not change
    path.write_bytes(damaged)
    assert run(["verify", str(store.folder)]) == 1
    assert path.name in capsys.readouterr().out
    # an option may stand before or after the folder
    assert run(["verify", "--remove-corrupt", str(tmp_path)]) == 1
    assert run(["verify", str(tmp_path), "--remove-corrupt"]) == 0
    assert not path.exists()
    items.assert_in(items.build(tmp_path), items.hashes)
    assert len(items.build(tmp_path, "float16")) == 23


def test_clear_removes_stores_and_nothing_else(tmp_path, items):
    store, other = (items.build(tmp_path, dtype) for dtype in ("float16", "int8"))
    (tmp_path / "notes.txt").write_text("mine")
    (other.folder / "notes.txt").write_text("mine")
    assert store.folder.exists()
    assert run(["clear", str(tmp_path)]) == 0
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {f"{other.folder.name}/notes.txt", "notes.txt"}


@pytest.mark.parametrize("command", ["info", "verify", "clear"])
def test_a_folder_without_stores_is_refused(tmp_path, command):
    (tmp_path / "holiday.jpg").write_text("")
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CacheError, match="no feature store in"):
            run([command, str(folder)])
    assert (tmp_path / "holiday.jpg").exists()


def test_build_takes_the_options_of_fit_and_the_default_folder_moves(tmp_path, monkeypatch):
    filled = []
    monkeypatch.setattr("epic_pl.cli.fill_cache", filled.append)
    assert run(["build", "--config", "x.yaml"]) == 0
    assert filled == [["--config", "x.yaml"]]
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path))
    assert default_root() == tmp_path / "features"
