"""``epic-pl tune``."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from epic_pl.arguments import INTERRUPTED, as_options, tune_parser
from epic_pl.config_files import find_packaged, first_config
from epic_pl.errors import ConfigError
from epic_pl.experiments.compare.plan import parsed_options
from epic_pl.experiments.tune.plot import draw
from epic_pl.experiments.tune.report import trial_line, write_best, write_trials
from epic_pl.experiments.tune.space import Range, Space, read_space, values_of
from epic_pl.experiments.tune.study import Search, Searcher, finished, load_optuna, open_study

DEFAULT_SPACE = "epic.yaml"
_OWN_OPTIONS = ("ckpt_path", "trainer.default_root_dir")


def tune_command(args: Sequence[str]) -> int:
    """Run ``epic-pl tune ARGS``.

    Returns:
        The exit code: 1 if no trial was trained to its end, 130 if interrupted, else 0.

    Raises:
        EpicError: with a message for the user.
    """
    options, shared = tune_parser().parse_known_args(list(args))
    for name, value in (("trials", options.trials), ("minutes", options.minutes)):
        if value is not None and value <= 0:
            raise ConfigError(f"--{name} is {value}: it must be more than 0.")
    load_optuna()
    space = read_space(find_packaged("spaces", options.space or DEFAULT_SPACE))
    output = Path(options.output or Path("runs/tune") / first_config(shared))
    search = plan_search(shared, space, options.search_seed, output)
    deadline = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    output.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(output / ".lock", timeout=0):
            return _run(search, options.trials, deadline)
    except Timeout:
        raise ConfigError(
            f"Another search is at work in {output}: wait for it, or give --output another folder."
        ) from None


def plan_search(shared: Sequence[str], space: Space, seed: int, output: Path) -> Search:
    """What is searched, with the metric that the config keeps its best checkpoint by.

    Raises:
        ConfigError: if that is no metric of validation, or an option is the search's own.
        ArgumentError: if ``fit`` does not know an option.
    """
    for option in shared:
        name = option.removeprefix("--").split("=")[0]
        if option.startswith("--") and name in _OWN_OPTIONS:
            raise ConfigError(
                f"epic-pl tune sets {name} itself in every trial: leave it out; --output says "
                "where files go."
            )
    parsed = parsed_options(shared)
    # an option of the space that fit does not know is told now, by its name
    parsed_options([*shared, *as_options(_any_values(space))])
    monitor, mode = parsed["checkpoint"]["monitor"], parsed["checkpoint"]["mode"]
    if not str(monitor).startswith("val/"):
        raise ConfigError(
            f"checkpoint.monitor is {monitor!r}, and the search needs a metric of the validation "
            "split, as val/accuracy: set it in the config or by --checkpoint.monitor."
        )
    return Search(tuple(shared), parsed, space, monitor, mode, seed, output)


def _any_values(space: Space) -> dict[str, Any]:
    """One of each, whichever."""
    return {
        name: each.low if isinstance(each, Range) else each.values[0]
        for name, each in space.items()
    }


def _run(search: Search, trials: int, deadline: float | None) -> int:
    console = Console(file=sys.stderr, soft_wrap=True, highlight=False)
    study = open_study(search, values_of(search.space, search.parsed))
    before = len(finished(study))
    if before:
        console.print(f"{before} trials were there.")

    def after(trial: Any) -> None:
        console.print(trial_line(study, trial, search, trials), markup=False)
        write_trials(study, search)
        write_best(study, search)

    code = 0
    try:
        Searcher(study, search, after).run(trials, deadline)
    except KeyboardInterrupt:
        console.print("Interrupted: the same command goes on where this one stopped.")
        code = INTERRUPTED
    if len(finished(study)) < trials and not code:
        console.print("Time is up: the same command goes on.")
    write_trials(study, search)
    draw(study, search)
    best = write_best(study, search)
    if best is None:
        return code or 1
    console.print(f"Best: {best}. Train with it: epic-pl fit --config X --config {best}")
    console.print(f"All trials: {search.output}/trials.csv, search.png", markup=False)
    return code
