"""``epic-pl tune``."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epic_pl.commands.parser import PositiveInt
from epic_pl.config_files import find_packaged, first_config
from epic_pl.errors import ConfigError

if TYPE_CHECKING:
    from epic_pl.experiments.tune.study import Search


def tune(
    fit_options: Sequence[str],
    trials: PositiveInt = 50,
    space: str = "wide.yaml",
    output: Path | None = None,
) -> int:
    """Search options on the validation metric that checkpoint.monitor names.

    The test split is never read. The same command continues an interrupted search. Needs the extra
    `tune`. The exit code is 1 if no trial was trained to its end, and 130 if interrupted.

    Args:
        fit_options: of ``epic-pl fit``, for all trials.
        trials: their number, those of an interrupted search included.
        space: YAML file, option -> {low, high, log} or list of choices.
        output: folder (runs/tune/CONFIG).

    Raises:
        EpicError: with a message for the user.
    """
    from epic_pl.experiments.interruption import INTERRUPTED, terminated_as_interrupted
    from epic_pl.experiments.tune.space import read_space
    from epic_pl.experiments.tune.study import plan_search

    output = output or Path("runs/tune") / first_config(fit_options)
    search = plan_search(fit_options, read_space(find_packaged("spaces", space)), output)
    try:
        with terminated_as_interrupted():
            best = best_options(search, trials)
    except KeyboardInterrupt:
        print("Interrupted: the same command continues the search.", file=sys.stderr)
        return INTERRUPTED
    return int(best is None)


def best_options(search: "Search", trials: int, wait_s: float = 0) -> dict[str, Any] | None:
    """Do the trials that are left of all, write the results, and return the best options.

    A search that still runs in the folder is waited for, ``wait_s`` seconds at most.

    Raises:
        ConfigError: if another search is running in the folder.
        KeyboardInterrupt: as it is, with the results so far written.
    """
    from filelock import FileLock, Timeout

    search.output.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(search.output / ".lock", timeout=wait_s):
            return _search(search, trials)
    except Timeout:
        raise ConfigError(
            f"Another search is running in {search.output}: wait for it, or give --output another "
            "folder."
        ) from None


def _search(search: "Search", trials: int) -> dict[str, Any] | None:
    from rich.console import Console

    from epic_pl.experiments.tune.report import draw, trial_line, write_results
    from epic_pl.experiments.tune.study import open_study, run_trials

    console = Console(file=sys.stderr, soft_wrap=True, highlight=False, markup=False)
    study = open_study(search)
    try:
        for trial in run_trials(study, search, trials):
            console.print(trial_line(trial, search, trials))
    finally:
        best = write_results(study, search)
    if best is None:
        return None
    draw(study, search)
    console.print(f"Best: {best}. Train with it: epic-pl fit --config X --config {best}")
    console.print(f"All trials: {search.output}/trials.csv, search.png")
    return study.best_trial.params
