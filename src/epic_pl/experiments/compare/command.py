"""``epic-pl compare``."""

import argparse
import sys
from pathlib import Path

from epic_pl.config_files import find_packaged, first_config
from epic_pl.errors import ConfigError

_DEFAULT_REFERENCE = "epic"


def parser() -> argparse.ArgumentParser:
    """Parser of ``epic-pl compare``, which takes the options of ``epic-pl fit`` too."""
    parser = argparse.ArgumentParser(
        "epic-pl compare",
        allow_abbrev=False,
        description=(
            "Train methods with several seeds on the same data and schedule, each run in a process "
            "of its own, and compare accuracy and cost. Takes --config and all other options of "
            "epic-pl fit as well. Finished runs with the same options are not repeated, and runs "
            "with other options are kept."
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
    parser.add_argument("--reference", help="method that the others are tested against (epic)")
    parser.add_argument("--budget", type=float, metavar="MINUTES", help="for all runs (no limit)")
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
    _check(options)

    import torch
    from rich.console import Console

    from epic_pl.experiments.compare.plan import choose, plan, read_variants
    from epic_pl.experiments.compare.progress import LiveProgress
    from epic_pl.experiments.compare.report import Report, show
    from epic_pl.experiments.compare.runner import Runner, devices
    from epic_pl.experiments.interruption import INTERRUPTED, terminated_as_interrupted

    variants = (
        read_variants(find_packaged("variants", options.variants)) if options.variants else []
    )
    entries = choose(options.methods, variants)
    reference = _reference(options.reference, [entry.name for entry in entries])
    output = Path(options.output or Path("runs/compare") / first_config(shared))
    runs = plan(entries, options.seeds, shared, output, options.splits)
    jobs = options.jobs or max(1, torch.cuda.device_count())
    budget_s = None if options.budget is None else 60 * options.budget
    report = Report(output, reference, jobs, shared)
    progress = LiveProgress(len(runs), Console(file=sys.stderr))
    runner = Runner(devices(jobs), budget_s, progress, report=report.write_so_far)
    try:
        with terminated_as_interrupted(), progress:
            outcomes = runner.execute(runs)
    except KeyboardInterrupt:
        report.write_so_far(runner.outcomes(runs))
        print("Interrupted: the same command continues with what is left.", file=sys.stderr)
        return INTERRUPTED
    console = Console()
    show(report.write(outcomes), console)
    console.print(f"Tables and plot: {output}/comparison.md, .csv, .json, .png", soft_wrap=True)
    return int(all(outcome.state == "failed" for outcome in outcomes))


def _check(options: argparse.Namespace) -> None:
    for name in ("seeds", "jobs"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} is {value}, but must be at least 1.")
    if options.budget is not None and options.budget <= 0:
        raise ConfigError(f"--budget is {options.budget}, but must be more than 0 minutes.")


def _reference(name: str | None, names: list[str]) -> str:
    if name is None:
        return _DEFAULT_REFERENCE if _DEFAULT_REFERENCE in names else names[0]
    if name not in names:
        raise ConfigError(f"--reference {name!r} is not compared; there are: {', '.join(names)}.")
    return name
