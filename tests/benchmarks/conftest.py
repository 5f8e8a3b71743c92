"""Benchmarks are scripts, which import each other by their folder."""

import sys
from pathlib import Path

import pytest

import tiny_openmoji
import tiny_runs

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture
def tiny(monkeypatch, tmp_path, tiny_vit_dir, tiny_tokenizer_dir):
    """Options of a run on the fabricated OpenMoji, which is in the cache."""
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    tiny_runs.workers_here(monkeypatch)
    tiny_openmoji.fill_cache(tmp_path / "cache")
    return tiny_openmoji.fit_options(tiny_vit_dir, tiny_tokenizer_dir)
