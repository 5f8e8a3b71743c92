"""Benchmarks are scripts, which import each other by their folder."""

import sys
from pathlib import Path

import pytest

import tiny_openmoji
import tiny_runs
from epic_pl.utils.assets import Emoji

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture
def here(cache, workdir, monkeypatch):
    """A cache and a working folder of the test's own; comparisons run in this process."""
    tiny_runs.workers_here(monkeypatch)
    return cache


@pytest.fixture
def on_openmoji(here, tiny):
    """Options of a run on the fabricated OpenMoji, which is in the cache."""
    tiny_openmoji.fill_cache(here)
    return tiny


@pytest.fixture
def on_named(here, tiny):
    """Options of a run on things with names of one word, whose drawings are in the cache."""
    tiny_openmoji.fill_named_cache(here)
    return tiny


@pytest.fixture
def emoji(on_openmoji, here, monkeypatch):
    """Emoji of three categories, of which `tables.py` makes its tables."""
    import tables

    images = here / "openmoji-17.0.0-32px"
    made = [
        Emoji(f"{group}{number:02}", f"{name} number {number}", name, f"{name}-kind")
        for group, name in enumerate(("food", "animals", "travel"))
        for number in range(30)
    ]
    for each in made:
        (images / f"{each.code}.png").write_bytes((images / "1F000.png").read_bytes())
    monkeypatch.setattr(tables, "fetch_openmoji", lambda size: images)
    monkeypatch.setattr(tables, "load_emoji", lambda: made)
    return made
