import os

import pytest

from epic_pl.errors import DataError
from epic_pl.inspection.pictures import inspect_picture, inspect_pictures


def _die(path):
    os._exit(9)


def test_a_killed_process_is_a_sentence():
    with pytest.raises(DataError, match="--workers 1"):
        list(inspect_pictures([f"{i}.png" for i in range(300)], _die, workers=2))


def test_a_path_that_leads_to_no_file_is_a_missing_picture(tmp_path):
    (tmp_path / "circle.png").symlink_to("circle.png")
    for path in ("nul\0.png", "circle.png"):
        facts = inspect_picture(path, tmp_path, None)
        assert facts.kind == "missing"
        assert facts.problem
