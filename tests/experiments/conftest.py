"""A tiny table in the working folder."""

import pytest

import tiny_runs


@pytest.fixture
def config(workdir, tiny_vit_dir, tiny_tokenizer_dir):
    """Config of ``data/table.csv``."""
    tiny_runs.table(workdir / "data")
    return str(tiny_runs.table_config(workdir / "data", tiny_vit_dir, tiny_tokenizer_dir))
