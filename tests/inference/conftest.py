from copy import deepcopy

import pytest

from epic_pl import Classifier


@pytest.fixture(scope="session")
def loaded(two_epochs):
    return Classifier.load(two_epochs.root / "runs", device="cpu")


@pytest.fixture
def classifier(loaded, trained):
    """A copy of the trained run's classifier; the run's folder is the working folder."""
    return deepcopy(loaded)
