import pytest
import torch

from epic_pl.cli.commands.cache import info
from epic_pl.features.store.fill import StoreRequest, fill_stores
from epic_pl.features.store.spec import Field, StoreSpec
from epic_pl.utils.errors import CacheError


def test_each_store_of_the_default_folder_is_shown_and_names_as_they_are(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path))
    fields = (Field("a", (1,)),)
    requests = [
        StoreRequest(
            StoreSpec("text", {"level": level, "precision": "bfloat16"}, fields, encoder="[b]tiny"),
            ["x", "y"],
            lambda at: ({"a": torch.ones(len(at), 1)}, None),
        )
        for level in ("[/red]", "layers")
    ]
    sound, damaged = (store.folder for store in fill_stores(tmp_path / "features", requests))
    (damaged / "spec.json").write_text("{}")
    for place in (None, sound):
        capsys.readouterr()
        info(place)
        printed = " ".join(capsys.readouterr().out.split())
        for word in (sound.name, "[b]tiny", "[/red]", "bfloat16", "2"):
            assert word in printed
        assert ("does not describe" in printed) == (damaged.name in printed) == (place is None)


def test_a_folder_without_stores_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").write_text("")
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CacheError, match="no feature store in"):
            info(folder)
