"""``epic-pl data check`` and ``epic-pl data init``."""

from collections.abc import Sequence
from pathlib import Path

from epic_pl.cli.commands.parser import PositiveInt


def check(
    fit_options: Sequence[str], output: Path | None = None, workers: PositiveInt | None = None
) -> int:
    """Read a dataset once and say whether training can start (exit code 0) or not (1).

    Args:
        fit_options: options of epic-pl fit.
        output: folder of the report (runs/data_check/ and the data's name).
        workers: number of threads that read images (one per core).

    Raises:
        EpicError: if the dataset cannot be read.
    """
    import pyarrow.parquet
    from rich.console import Console

    from epic_pl.data.inspection.check import check_data
    from epic_pl.data.inspection.problems import refusals
    from epic_pl.data.inspection.report import print_problems, print_summary, write_page
    from epic_pl.data.rows import collect_refused
    from epic_pl.run.epic_cli import build_data
    from epic_pl.utils.errors import DataError
    from epic_pl.utils.files import replacing
    from epic_pl.utils.validate import check_writable

    console = Console()
    with collect_refused() as refused:
        try:
            data = build_data(fit_options)
        except DataError:
            print_problems(refusals(refused), console)
            raise
    output = output or Path("runs/data_check", str(data.name).strip("/"))
    check_writable("--output", output, "report.html")
    findings = check_data(data, workers, console, refused)
    with replacing(output / "manifest.parquet") as partial:
        pyarrow.parquet.write_table(findings.rows, partial)
    report = write_page(findings, output / "report.html")
    print_summary(findings, console)
    files = f"Report: {report}; every row: {output / 'manifest.parquet'} (row numbers count from 0)"
    console.print(files, soft_wrap=True, markup=False)
    return 0 if findings.can_train else 1


def init(
    folder: Path,
    output: Path | None = None,
    image: str | None = None,
    text: str | None = None,
    label: str | None = None,
    split: str | None = None,
    force: bool = False,
) -> None:
    """Guess the columns of a table and write a config for it.

    Args:
        folder: a table, or its folder.
        output: file to write (epic.yaml beside the table).
        image: column of image paths or images; none for no images (guessed).
        text: column of texts; none for no texts (guessed).
        label: column of classes (guessed).
        split: column of train, val and test; none to draw validation and test rows (guessed).
        force: replace a file that exists.

    Raises:
        EpicError: if the columns cannot be guessed or the config cannot be written.
    """
    from epic_pl.data.inspection.init import write_config

    columns = {"image": image, "text": text, "label": label, "split": split}
    _, summary = write_config(folder, force, output, **columns)
    print(summary)
