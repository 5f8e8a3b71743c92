import dataclasses
import hashlib
import json
import os

import pytest
from cache_items import build_one
from safetensors.torch import load_file, save_file

from epic_pl.commands.cache import info
from epic_pl.errors import CacheError
from epic_pl.features.store.build import Wanted, default_root
from epic_pl.features.store.reader import FeatureStore
from epic_pl.features.store.spec import canonical


def test_info_shows_each_store(tmp_path, items, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    store = items.build(tmp_path, "float16")
    (items.build(tmp_path, "int8").folder / "spec.json").write_text("{}")
    for folder in (tmp_path, store.folder):
        info(folder)
        printed = capsys.readouterr().out
        for word in (store.folder.name, "tiny", "layers", "float16", "23"):
            assert word in printed
        assert ("does not describe" in printed) == (folder == tmp_path)


def _spec(**values):
    """Replaces values of a spec."""
    return lambda plain: json.dumps(plain | values)


SPECS = {
    "not JSON": lambda plain: "{",
    "null": lambda plain: "null",
    "list": lambda plain: "[]",
    "not UTF-8": lambda plain: b"\xff\xfe",
    "deep": lambda plain: "[" * 100_000,
    "key missing": lambda plain: json.dumps({k: v for k, v in plain.items() if k != "dtype"}),
    "key unknown": _spec(files=["../../notes.txt"]),
    "kind": _spec(kind=5),
    "identity": _spec(identity=None),
    "NaN": _spec(identity={"level": float("nan")}),
    "fields": _spec(fields=[1]),
    "no fields": _spec(fields=[]),
    "negative shape": _spec(fields=[{"name": "pooled", "shape": [-9], "token_axis": None}]),
    "huge shape": _spec(fields=[{"name": "pooled", "shape": [10**15], "token_axis": None}]),
    "dtype": _spec(dtype=["float32"]),
    "encoder": _spec(encoder={"a": 1}),
}


@pytest.mark.parametrize("damage", SPECS)
def test_a_malformed_spec_is_told_and_written_again(tmp_path, items, capsys, monkeypatch, damage):
    monkeypatch.setenv("COLUMNS", "200")
    store = items.build(tmp_path)
    path = store.folder / "spec.json"
    content = SPECS[damage](json.loads(path.read_text()))
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    info(tmp_path)
    assert "does not describe" in capsys.readouterr().out
    wanted = Wanted(items.spec(), items.hashes, items.produce)
    assert wanted.open(tmp_path) is None
    items.asked.clear()
    items.assert_in(items.build(tmp_path), items.hashes)
    assert not items.asked  # shards are kept


@pytest.mark.parametrize("damage", ["no digests", "shape", "dtype", "length", "pipe", "link"])
def test_a_shard_of_another_content_is_damaged_and_written_again(tmp_path, items, damage):
    store = items.build(tmp_path)
    path = sorted(store.folder.glob("shard-*"))[1]
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    path.unlink()  # a mapped file must not change
    outside = tmp_path / "notes.txt"
    outside.write_text("mine")
    if damage == "pipe":
        os.mkfifo(path)
    elif damage == "link":
        path.symlink_to(outside)
        path.with_name(f".{path.name}.partial").symlink_to(outside)
    else:
        if damage == "no digests":
            del tensors["digests"]
        elif damage == "length" and "lengths" in tensors:
            tensors["lengths"][0] = -1
        elif damage == "dtype":
            tensors["pooled"] = tensors["pooled"].double()
        else:
            tensors["pooled"] = tensors["pooled"][:, 1:].contiguous()
        save_file(tensors, path)
    items.assert_in(items.build(tmp_path), items.hashes)
    assert outside.read_text() == "mine"


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


def test_markup_in_names_is_printed_as_it_is(tmp_path, items, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    spec = items.spec(level="[/red]")
    spec = dataclasses.replace(spec, encoder="[bold]models[/bold]/[/]vit")
    build_one(tmp_path, spec, items.hashes, items.produce)
    info(tmp_path)
    printed = capsys.readouterr().out
    assert "[/red]" in printed
    assert "[bold]models[/bold]/[/]vit" in printed


def test_a_folder_without_stores_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").write_text("")
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CacheError, match="no feature store in"):
            info(folder)
    assert (tmp_path / "holiday.jpg").exists()


def test_the_default_folder_moves(tmp_path, monkeypatch):
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path))
    assert default_root() == tmp_path / "features"
