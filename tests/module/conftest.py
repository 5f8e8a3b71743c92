from functools import partial

import pytest

import tiny_runs


@pytest.fixture(scope="session")
def make(tiny_vit_dir, tiny_tokenizer_dir):
    """Builds EPICModule on the tiny encoders; takes what tiny_runs.module takes."""
    return partial(tiny_runs.module, tiny_vit_dir, tiny_tokenizer_dir)
