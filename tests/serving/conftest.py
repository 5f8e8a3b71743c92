import pytest

from epic_pl import Classifier


@pytest.fixture
def classifier(trained):
    return Classifier.load("runs", device="cpu")
