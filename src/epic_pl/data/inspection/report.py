"""The report of a data check, on the console and as an HTML page."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from epic_pl.data.images import read_image
from epic_pl.data.inspection.check import Findings
from epic_pl.data.inspection.problems import Problem
from epic_pl.utils.errors import DataError, printable
from epic_pl.utils.files import write_text
from epic_pl.utils.html_page import jpeg, render

_COLOURS = {"error": "red", "warning": "yellow", "note": "dim"}
_HEADINGS = ("split", "rows", "classes", "images", "no image", "no text")
_SAMPLES = 12
_THUMBNAIL = (160, 160)  # pixels


def _split_counts(findings: Findings) -> dict[str, list[int]]:
    """Counts for each split: rows, classes, distinct images, rows without image or text."""
    counts: dict[str, list[int]] = {}
    for split, per_class in findings.class_counts.items():
        rows = findings.rows.filter(pc.equal(findings.rows["split"], split))
        images = pc.count_distinct(rows["image"]).as_py()
        absent = [rows[name].null_count for name in ("image", "text")]
        counts[split] = [rows.num_rows, int((per_class > 0).sum()), images, *absent]
    return counts


def print_summary(findings: Findings, console: Console) -> None:
    """Print the counts of each split, every problem, and whether training can start."""
    table = Table(*_HEADINGS)
    for split, values in _split_counts(findings).items():
        table.add_row(split, *(f"{value:,}" for value in values))
    console.print(table)
    print_problems(findings.problems, console)
    console.print(findings.verdict, style="bold")


def print_problems(problems: Iterable[Problem], console: Console) -> None:
    """Print the level, text and examples of each problem."""
    for problem in problems:
        severity = f"[{_COLOURS[problem.severity]}]{problem.severity}[/]"
        console.print(f"{severity}: {escape(printable(problem.text))}", soft_wrap=True)
        for example in problem.examples:
            console.print(f"    {escape(printable(example))}", soft_wrap=True)


def write_page(findings: Findings, path: Path) -> Path:
    """Write the report as one HTML file, and return its path."""
    names = findings.data.class_names
    counts = np.array(list(findings.class_counts.values()))  # (splits, C)
    order = np.argsort(-counts.sum(axis=0), kind="stable").tolist() if counts.size else []
    page = render(
        "data/inspection/templates/data_check.html",
        name=findings.data.name,
        findings=findings,
        headings=_HEADINGS,
        splits=_split_counts(findings),
        classes=[(names[i], counts[:, i].tolist()) for i in order],
        samples=list(_samples(findings)),
    )
    write_text(path, page)
    return path


def _samples(findings: Findings) -> Iterator[dict[str, Any]]:
    """Some rows without problems, spread over the table, with thumbnails of their images."""
    rows = findings.rows
    rows = rows.filter(pc.and_(pc.is_null(rows["kind"]), pc.is_valid(rows["image"])))
    chosen = np.linspace(0, len(rows) - 1, min(_SAMPLES, len(rows))).astype(int)
    for row in rows.take(chosen).to_pylist():
        try:
            image = read_image(findings.image_roots[row["split"]] / row["image"])
        except DataError:  # the image was removed since the check
            continue
        image.thumbnail(_THUMBNAIL)
        yield row | {"image": jpeg(image)}
