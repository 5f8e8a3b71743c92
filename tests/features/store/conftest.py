import numpy as np
import pytest
from cache_items import Items


@pytest.fixture(params=[False, True], ids=["fixed", "ragged"])
def items(request: pytest.FixtureRequest) -> Items:
    return Items(23, request.param)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
