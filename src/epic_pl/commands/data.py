"""``epic-pl data check`` and ``epic-pl data init``."""

import argparse
from pathlib import Path

from epic_pl.errors import DataError


def parser() -> argparse.ArgumentParser:
    """Parser of ``epic-pl data {check,init}``; check takes the options of ``epic-pl fit`` too."""
    parser = argparse.ArgumentParser("epic-pl data", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser(
        "check",
        allow_abbrev=False,
        help="read a dataset once and say whether training can start (exit code 0) or not (1)",
        description="Takes --config and all other options of epic-pl fit as well.",
    )
    check.add_argument("--output", type=Path, default=Path("runs/data_check"), help="(%(default)s)")
    check.add_argument("--workers", type=int, help="processes that read images (one a core)")
    init = commands.add_parser(
        "init", help="guess the columns of a table and write epic.yaml for it"
    )
    init.add_argument("folder", metavar="DIR", type=Path, help="a table, or the folder it lies in")
    init.add_argument("--output", type=Path, help="file to write (epic.yaml beside the table)")
    for role, kind in (("image", "image paths"), ("text", "texts"), ("label", "classes")):
        init.add_argument(f"--{role}", metavar="COLUMN", help=f"of {kind}, if not to be guessed")
    init.add_argument("--force", action="store_true", help="replace an epic.yaml that is there")
    return parser


def run(argv: list[str]) -> int:
    """Run ``epic-pl data ARGV``.

    Returns:
        The exit code: 0 if training can start.

    Raises:
        EpicError: with a message for the user.
    """
    options, rest = parser().parse_known_args(argv)
    if options.command == "check":
        return _check(rest, options.output, options.workers)
    if rest:
        raise DataError(f"epic-pl data init does not know {' '.join(rest)}; see --help.")

    from epic_pl.inspection.guess import Roles
    from epic_pl.inspection.init import summarize, write_config

    roles = Roles(options.image, options.text, options.label)
    print(summarize(*write_config(options.folder, options.force, options.output, roles)))
    return 0


def _check(args: list[str], output: Path, workers: int | None) -> int:
    import pyarrow.parquet
    from rich.console import Console

    from epic_pl.cli import build_data
    from epic_pl.inspection.check import check_data
    from epic_pl.inspection.report import print_summary, write_report
    from epic_pl.validate import check_writable

    check_writable("--output", output, "report.html")
    data, console = build_data(args), Console()
    findings = check_data(data, workers, console)
    pyarrow.parquet.write_table(findings.rows, output / "manifest.parquet")
    report = write_report(findings, output / "report.html")
    print_summary(findings, console)
    files = f"Report: {report}; every row: {output / 'manifest.parquet'}"
    console.print(files, soft_wrap=True, markup=False)
    return 0 if findings.can_train else 1
