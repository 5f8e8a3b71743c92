"""``epic-pl tune``."""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from epic_pl.config_files import find_packaged, first_config
from epic_pl.errors import ConfigError

if TYPE_CHECKING:
    from epic_pl.experiments.tune.study import Search

_DEFAULT_SPACE = "epic.yaml"


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
    parser.add_argument("--minutes", type=float, metavar="M", help="for this command (no limit)")
    parser.add_argument("--output", metavar="DIR", help="folder (runs/tune/CONFIG)")
    parser.add_argument(
        "--space",
        metavar="FILE",
        default=_DEFAULT_SPACE,
        help="YAML: option -> {low, high, log} or list of choices (%(default)s)",
    )
    parser.add_argument(
        "--search_seed", type=int, default=0, metavar="N", help="seed of the search (%(default)s)"
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
    for name in ("trials", "minutes"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise ConfigError(f"--{name} is {value}, but must be more than 0.")

    try:
        import optuna  # noqa: F401 an extra
    except ImportError as error:
        raise ConfigError(
            f"epic-pl tune needs the optuna library, which cannot be imported ({error}): "
            "pip install optuna."
        ) from error
    from filelock import FileLock, Timeout

    from epic_pl.experiments.tune.space import read_space
    from epic_pl.experiments.tune.study import plan_search

    space = read_space(find_packaged("spaces", options.space))
    output = Path(options.output or Path("runs/tune") / first_config(shared))
    search = plan_search(shared, space, options.search_seed, output)
    deadline = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    output.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(output / ".lock", timeout=0):
            return _run(search, options.trials, deadline)
    except Timeout:
        raise ConfigError(
            f"Another search is running in {output}: wait for it, or give --output another folder."
        ) from None


def _run(search: "Search", trials: int, deadline: float | None) -> int:
    from rich.console import Console

    from epic_pl.experiments.interruption import INTERRUPTED
    from epic_pl.experiments.tune.report import trial_line, write_results
    from epic_pl.experiments.tune.study import finished, open_study, run_trials

    console = Console(file=sys.stderr, soft_wrap=True, highlight=False)
    study = open_study(search)
    if before := finished(study):
        console.print(f"{before} trials were finished before.")
    code = 0
    try:
        for trial in run_trials(study, search, trials, deadline):
            console.print(trial_line(study, trial, search, trials), markup=False)
            write_results(study, search)
    except KeyboardInterrupt:
        console.print("Interrupted: the same command continues the search.")
        code = INTERRUPTED
    if finished(study) < trials and not code:
        console.print("The time is over: the same command continues the search.")
    best = write_results(study, search, plot=True)
    if best is None:
        return code or 1
    console.print(f"Best: {best}. Train with it: epic-pl fit --config X --config {best}")
    console.print(f"All trials: {search.output}/trials.csv, search.png", markup=False)
    return code
