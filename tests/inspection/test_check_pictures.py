import os

import pytest

from epic_pl.errors import DataError
from epic_pl.inspection.pictures import inspect_pictures


def _die(path):
    os._exit(9)


def test_a_killed_process_is_a_sentence():
    with pytest.raises(DataError, match="--workers 1"):
        list(inspect_pictures([f"{i}.png" for i in range(300)], _die, workers=2))
