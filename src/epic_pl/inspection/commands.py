"""``epic-pl data check`` and ``epic-pl data init``."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet
from rich.console import Console

from epic_pl.arguments import data_parser
from epic_pl.data.datamodule import ImageTextDataModule
from epic_pl.errors import DataError
from epic_pl.inspection.check import check_data
from epic_pl.inspection.init import guessed, write_config
from epic_pl.inspection.report import print_summary, write_report


def data_command(
    args: Sequence[str], build_data: Callable[[list[str]], ImageTextDataModule]
) -> int:
    """Run ``epic-pl data ARGS``.

    Args:
        args: what follows ``data``.
        build_data: makes the DataModule out of options as ``fit`` takes them.

    Returns:
        The exit code: 0 if training can start.

    Raises:
        EpicError: with a message for the user.
    """
    options, rest = data_parser().parse_known_args(list(args))
    if options.command == "check":
        return _check(build_data(rest), Path(options.output), options.workers)
    if rest:
        raise DataError(f"epic-pl data init does not know {' '.join(rest)}; see --help.")
    output = None if options.output is None else Path(options.output)
    print(guessed(*write_config(Path(options.folder), options.force, output)))
    return 0


def _check(data: ImageTextDataModule, output: Path, workers: int | None) -> int:
    console = Console()
    findings = check_data(data, workers, console)
    output.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(findings.rows, output / "manifest.parquet")
    report = write_report(findings, output / "report.html")
    print_summary(findings, console)
    console.print(f"Report: {report}; every row: {output / 'manifest.parquet'}", soft_wrap=True)
    return 0 if findings.can_train else 1
