"""Reports of a data check, on the console and as an HTML page."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from epic_pl.data.images import read_image
from epic_pl.data.inspection.check import Findings
from epic_pl.utils.errors import DataError, printable
from epic_pl.utils.files import write_text
from epic_pl.utils.html_page import jpeg, plot_style, render, svg

_COLOURS = {"error": "red", "warning": "yellow", "note": "dim"}
_HEADINGS = ("split", "rows", "classes", "images", "no image", "no text")
_SAMPLES = 12
_THUMBNAIL = (160, 160)  # pixels


def _split_counts(findings: Findings) -> dict[str, list[int]]:
    """Counts of each split: rows, classes, distinct images, rows without image or text."""
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
    for problem in findings.problems:
        severity = f"[{_COLOURS[problem.severity]}]{problem.severity}[/]"
        console.print(f"{severity}: {escape(printable(problem.text))}", soft_wrap=True)
        for example in problem.examples:
            console.print(f"    {escape(printable(example))}", soft_wrap=True)
    console.print(findings.verdict, style="bold")


def write_page(findings: Findings, path: Path) -> Path:
    """Write the self-contained page, and return its path."""
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
        histograms=[svg(figure) for figure in _histograms(findings)],
        samples=list(_samples(findings)),
    )
    write_text(path, page)
    return path


def _histograms(findings: Findings) -> Iterator[Figure]:
    """Lengths of texts and sizes of images, unless all are equal, as the notes say then."""
    rows, limit = findings.rows, findings.data.processor.max_text_tokens
    sides = pc.min_element_wise(rows["width"], rows["height"])
    for column, label in (
        (rows["tokens"], f"tokens of a text; those over {limit} are cut off"),
        (sides, "shorter side of an image, pixels"),
    ):
        values = column.drop_null().to_numpy()
        if len(values) and values.min() < values.max():
            yield _draw_histogram(values, label)


@plot_style()
def _draw_histogram(values: npt.NDArray[np.int32], label: str) -> Figure:
    """At most 40 bins of equally many whole numbers."""
    figure = Figure(figsize=(4.8, 2.6))
    axes = figure.add_subplot()
    width = math.ceil((int(values.max()) - int(values.min()) + 1) / 40)
    edges = np.arange(values.min() - 0.5, values.max() + width, width)
    axes.hist(values, edges.tolist())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=label, ylabel="rows")
    return figure


def _samples(findings: Findings) -> Iterator[dict[str, Any]]:
    """Evenly spread rows without problems, with thumbnails of their images."""
    rows = findings.rows
    rows = rows.filter(pc.and_(pc.is_null(rows["kind"]), pc.is_valid(rows["image"])))
    chosen = np.linspace(0, len(rows) - 1, min(_SAMPLES, len(rows))).astype(int)
    for row in rows.take(chosen).to_pylist():
        try:
            image = read_image(findings.image_roots[row["split"]] / row["image"])
        except DataError:  # removed since the check
            continue
        image.thumbnail(_THUMBNAIL)
        yield row | {"image": jpeg(image)}
