import multiprocessing
from pathlib import Path

import pytest

from epic_pl.utils.assets.cached import cache_dir, cached_folder
from epic_pl.utils.errors import AssetError


def test_own_variable_wins_over_xdg_and_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("EPIC_PL_CACHE", raising=False)
    assert cache_dir() == tmp_path / ".cache" / "epic_pl"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "epic_pl"
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"


def test_failed_build_leaves_no_folder_and_the_next_one_starts_clean(cache, monkeypatch):
    def killed(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_folder("a/b", killed)
    assert not (cache / "a" / "b").exists()
    folder = cached_folder("a/b", lambda target: (target / "whole").write_text("x") and None)
    assert [path.name for path in folder.iterdir()] == ["whole"]
    monkeypatch.setattr(
        "epic_pl.utils.assets.cached.FileLock", None
    )  # a complete folder needs no lock
    assert cached_folder("a/b", killed) == folder


def _count_builds(root: str) -> None:
    def fill(folder: Path) -> None:
        with (Path(root) / "builds").open("a") as log:
            log.write("x")
        (folder / "file").write_text("x")

    cached_folder("asset", fill)


def test_many_ranks_build_once(cache, tmp_path):
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_count_builds, args=(str(tmp_path),)) for _ in range(6)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0] * 6
    assert (tmp_path / "builds").read_text() == "x"


def test_a_cache_that_cannot_be_written_or_read_names_the_variable(cache, monkeypatch):
    cache.write_text("not a folder")
    with pytest.raises(AssetError, match="EPIC_PL_CACHE"):
        cached_folder("asset", lambda _: None)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", refuse)  # root may read anything
    with pytest.raises(AssetError, match=r"asset'.*EPIC_PL_CACHE"):
        cached_folder("asset", lambda _: None)
