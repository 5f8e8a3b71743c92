"""The search for one line of a comparison, in a process of its own.

``python -m epic_pl.experiments.compare.search_worker FOLDER SPACE TRIALS PARENT`` reads
``run.json`` in the folder and writes ``result.json`` with the best options. It ends when the
process PARENT has ended.
"""

import sys
from pathlib import Path

from epic_pl.cli import errors_as_text
from epic_pl.errors import ConfigError
from epic_pl.experiments.files import read_json, write_json
from epic_pl.experiments.interruption import end_with
from epic_pl.experiments.tune.command import best_options
from epic_pl.experiments.tune.space import read_space
from epic_pl.experiments.tune.study import plan_search

# a search that was killed needs some time to end
_WAIT_S = 30


def search_one(folder: Path, space: str, trials: int) -> None:
    """Do the search of ``run.json`` in ``folder``, or the part of it that is left.

    Raises:
        ConfigError: if no trial was trained to its end, or validation has no metric to judge by.
    """
    spec = read_json(folder / "run.json") or {}
    search = plan_search(spec["options"], read_space(space), folder)
    chosen = best_options(search, trials, _WAIT_S)
    if chosen is None:
        raise ConfigError("No trial came to its end.")
    write_json(folder / "result.json", spec | {"chosen": chosen})


if __name__ == "__main__":
    end_with(int(sys.argv[4]))
    with errors_as_text():
        search_one(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
