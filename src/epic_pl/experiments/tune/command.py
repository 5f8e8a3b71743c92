"""``epic-pl tune``."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epic_pl.config_files import find_packaged, first_config
from epic_pl.errors import ConfigError

if TYPE_CHECKING:
    from epic_pl.experiments.tune.study import Search


def parser() -> argparse.ArgumentParser:
    """Parser of ``epic-pl tune``, which takes the options of ``epic-pl fit`` too."""
    parser = argparse.ArgumentParser(
        "epic-pl tune",
        allow_abbrev=False,
        description=(
            "Search options on the validation metric that checkpoint.monitor names; the test split "
            "is never read. Takes --config and all other options of epic-pl fit as well. The same "
            "command continues an interrupted search. Needs the extra `tune`."
        ),
    )
    parser.add_argument("--trials", type=int, default=50, help="in all (%(default)s)")
    parser.add_argument("--output", metavar="DIR", help="folder (runs/tune/CONFIG)")
    parser.add_argument(
        "--space",
        metavar="FILE",
        default="wide.yaml",
        help="YAML: option -> {low, high, log} or list of choices (%(default)s)",
    )
    return parser


def run(argv: list[str]) -> int:
    """Run ``epic-pl tune ARGV``.

    Returns:
        The exit code: 1 if no trial was trained to its end, 130 if interrupted, else 0.

    Raises:
        EpicError: with a message for the user.
    """
    options, shared = parser().parse_known_args(argv)
    if options.trials < 1:
        raise ConfigError(f"--trials is {options.trials}, but must be at least 1.")
    require_optuna()
    from epic_pl.experiments.interruption import INTERRUPTED, terminated_as_interrupted
    from epic_pl.experiments.tune.space import read_space
    from epic_pl.experiments.tune.study import plan_search

    space = read_space(find_packaged("spaces", options.space))
    output = Path(options.output or Path("runs/tune") / first_config(shared))
    search = plan_search(shared, space, output)
    try:
        with terminated_as_interrupted():
            best = best_options(search, options.trials)
    except KeyboardInterrupt:
        print("Interrupted: the same command continues the search.", file=sys.stderr)
        return INTERRUPTED
    return int(best is None)


def require_optuna() -> None:
    """Check for the library that searches.

    Raises:
        ConfigError: if it cannot be imported.
    """
    try:
        import optuna  # noqa: F401 an extra
    except ImportError as error:
        raise ConfigError(
            f"The search needs the optuna library, which cannot be imported ({error}): "
            "pip install optuna."
        ) from error


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
