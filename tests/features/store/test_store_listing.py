import dataclasses
import hashlib
import json

import pytest
from cache_items import build_one

from epic_pl.commands.cache import info
from epic_pl.errors import CacheError
from epic_pl.features.store.build import Wanted, default_root
from epic_pl.features.store.reader import FeatureStore
from epic_pl.features.store.spec import canonical


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def test_info_shows_each_store_and_names_as_they_are(tmp_path, items, capsys):
    spec = dataclasses.replace(items.spec("float16", level="[/red]"), encoder="[bold]tiny[/bold]")
    folder = build_one(tmp_path, spec, items.hashes, items.produce).folder
    (items.build(tmp_path, "int8").folder / "spec.json").write_text("{}")
    for place in (tmp_path, folder):
        info(place)
        printed = capsys.readouterr().out
        for word in (folder.name, "[bold]tiny[/bold]", "[/red]", "float16", "23"):
            assert word in printed
        assert ("does not describe" in printed) == (place == tmp_path)


def field(size):
    return {"fields": [{"name": "pooled", "shape": [size], "token_axis": None}]}


@pytest.mark.parametrize(
    "damage",
    [
        b"{",
        b"null",
        b"[]",
        b'{"format": 1}',
        b"\xff\xfe",
        b"[" * 100_000,
        {"dtype": ["float32"]},
        {"encoder": {"a": 1}},
        {"fields": [1]},
        {"fields": []},
        field(-9),
        field(10**15),
        {"files": ["../../notes.txt"]},
        {"identity": None},
        {"identity": {"level": float("nan")}},
        {"kind": 5},
    ],
    ids=lambda damage: str(damage)[:20],
)
def test_a_malformed_spec_is_told_and_written_again(tmp_path, items, capsys, damage):
    path = items.build(tmp_path).folder / "spec.json"
    if isinstance(damage, dict):
        damage = json.dumps(json.loads(path.read_text()) | damage).encode()
    path.write_bytes(damage)
    info(tmp_path)
    assert "does not describe" in capsys.readouterr().out
    wanted = Wanted(items.spec(), items.hashes, items.produce)
    assert wanted.open(tmp_path) is None
    items.asked.clear()
    items.assert_in(items.build(tmp_path), items.hashes)
    assert not items.asked  # shards are kept


@pytest.mark.parametrize(
    "change",
    [{"dtype": ["float16"]}, {"dtype": "../../x"}, {"identity": []}, {"kind": "sound"}],
    ids=str,
)
def test_a_spec_of_other_types_is_refused_whatever_its_folder_is_called(tmp_path, items, change):
    spec = dataclasses.replace(items.spec(), **change)
    plain = items.spec().to_json() | change
    key = hashlib.sha256(canonical(plain | {"encoder": None}).encode()).hexdigest()[:16]
    folder = tmp_path / f"{spec.kind}-{key}"
    folder.mkdir()
    (folder / "spec.json").write_text(json.dumps(plain))
    with pytest.raises(CacheError, match="does not describe"):
        FeatureStore(folder)


def test_a_folder_without_stores_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").write_text("")
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CacheError, match="no feature store in"):
            info(folder)
    assert (tmp_path / "holiday.jpg").exists()


def test_the_default_folder_moves(tmp_path, monkeypatch):
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path))
    assert default_root() == tmp_path / "features"
