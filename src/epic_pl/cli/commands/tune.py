"""``epic-pl tune``."""

from collections.abc import Sequence
from pathlib import Path

from epic_pl.cli.commands.parser import PositiveInt
from epic_pl.utils.config_files import first_config


def tune(
    fit_options: Sequence[str],
    trials: PositiveInt = 50,
    space: str | None = None,
    output: Path | None = None,
) -> int:
    """Search the options with the best validation metric, which early_stopping.monitor names.

    The test split is never read. The same command continues an interrupted search. Needs the extra
    `tune`. The exit code is 1 if no trial was trained to its end, and 130 if interrupted.

    Args:
        fit_options: options of epic-pl fit, for all trials.
        trials: number of trials, those before an interruption included.
        space: YAML file of option -> {low, high, log} or list of choices, or the name of a packaged
            one (by the method).
        output: folder of all files (runs/tune/CONFIG).

    Raises:
        EpicError: if an option is wrong, or no trial can be trained.
    """
    from epic_pl.experiments.tune.search import plan_search
    from epic_pl.experiments.tune.study import best_options

    output = output or Path("runs/tune") / first_config(fit_options)
    search = plan_search(fit_options, space, output)
    try:
        best = best_options(search, trials)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command continues the search.") from None
    return int(best is None)
