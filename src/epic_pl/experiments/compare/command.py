"""``epic-pl compare``."""

import argparse
import sys
from pathlib import Path

from epic_pl.config_files import find_packaged, first_config
from epic_pl.errors import ConfigError
from epic_pl.experiments.tune.command import require_optuna


def parser() -> argparse.ArgumentParser:
    """Parser of ``epic-pl compare``, which takes the options of ``epic-pl fit`` too."""
    parser = argparse.ArgumentParser(
        "epic-pl compare",
        allow_abbrev=False,
        description=(
            "Train methods with several seeds on the same data and schedule, each run in a process "
            "of its own, and compare accuracy and cost. Takes --config and all other options of "
            "epic-pl fit as well. The others are tested against the first method. Finished runs "
            "with the same options are not repeated."
        ),
    )
    parser.add_argument(
        "--methods", help="names, joined by commas (all methods, and all of --variants)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each method (%(default)s)")
    parser.add_argument(
        "--splits", action="store_true", help="split the data anew for each seed (data.split_seed)"
    )
    parser.add_argument("--variants", metavar="FILE", help="YAML: name -> {method, options of fit}")
    parser.add_argument(
        "--tune",
        type=int,
        default=0,
        metavar="N",
        help="first choose options of each method by N trials on validation, in the spaces "
        "of docs/compare.md; needs the extra tune",
    )
    parser.add_argument("--output", metavar="DIR", help="folder (runs/compare/CONFIG)")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at a time (one a GPU, else 1)")
    return parser


def run(argv: list[str]) -> int:
    """Run ``epic-pl compare ARGV``.

    Returns:
        The exit code: 1 if every run failed, 130 if interrupted, else 0.

    Raises:
        EpicError: with a message for the user, before the first run.
    """
    options, shared = parser().parse_known_args(argv)
    for name, value, least in (
        ("seeds", options.seeds, 1),
        ("jobs", options.jobs, 1),
        ("tune", options.tune, 0),
    ):
        if value is not None and value < least:
            raise ConfigError(f"--{name} is {value}, but must be at least {least}.")
    if options.tune and options.splits:
        raise ConfigError(
            "--tune chooses options on rows that other seeds of --splits test on: leave one out."
        )
    if options.tune:
        require_optuna()

    import torch
    from rich.console import Console

    from epic_pl.experiments.compare.comparison import Comparison
    from epic_pl.experiments.compare.plan import choose, read_variants
    from epic_pl.experiments.compare.report import show
    from epic_pl.experiments.interruption import INTERRUPTED, terminated_as_interrupted

    file = options.variants and find_packaged("variants", options.variants)
    comparison = Comparison(
        choose(options.methods, read_variants(file) if file else []),
        shared,
        Path(options.output or Path("runs/compare") / first_config(shared)),
        seeds=options.seeds,
        splits=options.splits,
        trials=options.tune,
        jobs=options.jobs or max(1, torch.cuda.device_count()),
    )
    try:
        with terminated_as_interrupted():
            outcomes = comparison.execute()
    except KeyboardInterrupt:
        print("Interrupted: the same command continues with what is left.", file=sys.stderr)
        return INTERRUPTED
    console = Console()
    show(comparison.report(outcomes), console)
    files = f"{comparison.output}/comparison.md, .json, .png"
    console.print(f"Tables and plot: {files}", soft_wrap=True, markup=False)
    return int(all(outcome.result is None for outcome in outcomes))
