"""Findings of a data check on the console and as an HTML page."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from epic_pl.data.images import read_image
from epic_pl.errors import DataError
from epic_pl.html_page import jpeg, png, render
from epic_pl.inspection.findings import Findings

_COLOURS = {"error": "red", "warning": "yellow", "note": "dim"}
_HEADINGS = ("split", "rows", "classes", "pictures", "no picture", "no text")
_SAMPLES = 12
_CLASSES_SHOWN = 40
_THUMBNAIL = (160, 160)  # pixels


def verdict(findings: Findings) -> str:
    """Whether training can start, in one sentence."""
    if findings.can_train:
        return "Training can start."
    errors = sum(problem.level == "error" for problem in findings.problems)
    return f"Training cannot start: {errors} error{'s' if errors > 1 else ''}."


def split_counts(findings: Findings) -> list[tuple[str, list[int]]]:
    """Rows, classes, distinct pictures and rows without picture or text of each split."""
    counts = []
    for split, per_class in findings.class_counts.items():
        rows = findings.rows.filter(pc.equal(findings.rows["split"], split))
        pictures = pc.count_distinct(rows["image"]).as_py()
        absent = [rows[name].null_count for name in ("image", "text")]
        counts.append((split, [rows.num_rows, int((per_class > 0).sum()), pictures, *absent]))
    return counts


def print_summary(findings: Findings, console: Console) -> None:
    """Print the counts of each split, every problem, and whether training can start."""
    table = Table(*_HEADINGS)
    for split, values in split_counts(findings):
        table.add_row(split, *(f"{value:,}" for value in values))
    console.print(table)
    for problem in findings.problems:
        level = f"[{_COLOURS[problem.level]}]{problem.level}[/]"
        console.print(f"{level}: {escape(problem.text)}", soft_wrap=True)
        for example in problem.examples:
            console.print(f"    {escape(example)}", soft_wrap=True)
    console.print(verdict(findings), style="bold")


def write_report(findings: Findings, path: Path) -> Path:
    """Write the page, which needs no other file, and return its path."""
    counts = np.array(list(findings.class_counts.values()))  # (splits, C)
    order = np.argsort(-counts.sum(axis=0), kind="stable").tolist() if counts.size else []
    page = render(
        "inspection/templates/data_check.html",
        name=findings.name,
        can_train=findings.can_train,
        verdict=verdict(findings),
        headings=_HEADINGS,
        splits=split_counts(findings),
        problems=findings.problems,
        class_counts=findings.class_counts,
        classes=[(findings.class_names[i], counts[:, i].tolist()) for i in order],
        histograms=[png(figure) for figure in _histograms(findings)],
        samples=list(_samples(findings)),
    )
    path.write_text(page, encoding="utf-8")
    return path


def _histograms(findings: Findings) -> Iterator[Figure]:
    rows = findings.rows
    train = findings.class_counts.get("train")
    if train is not None and train.any():
        figure, axes = _figure("training rows of each class", "rows")
        largest = np.argsort(-train, kind="stable")[:_CLASSES_SHOWN]
        axes.bar(range(len(largest)), train[largest])
        names = [findings.class_names[i][:24] for i in largest]
        # without parsing, a $ in a name starts no formula
        axes.set_xticks(range(len(largest)), names, rotation=90, fontsize=7, parse_math=False)
        yield figure
    tokens = rows["tokens"].drop_null().to_numpy()
    if tokens.size:
        figure, axes = _figure("tokens of each text, before truncation", "texts")
        axes.hist(tokens, bins=_bins(tokens))
        axes.axvline(findings.max_text_tokens, color="tab:red", label="max_text_tokens")
        axes.legend()
        yield figure
    sides = pc.min_element_wise(rows["width"], rows["height"]).drop_null().to_numpy()
    if sides.size:
        figure, axes = _figure("shorter side of each picture, pixels", "rows")
        axes.hist(sides, bins=_bins(sides))
        yield figure


def _bins(values: Any) -> Any:
    return np.linspace(values.min() - 0.5, values.max() + 0.5, 40)


def _figure(title: str, unit: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, ylabel=unit)
    return figure, axes


def _samples(findings: Findings) -> Iterator[dict[str, Any]]:
    """Rows without a problem, spread over all, with a thumbnail of their picture."""
    sound = np.asarray(pc.is_null(findings.rows["kind"]))
    rows = np.flatnonzero(sound & np.array([path is not None for path in findings.sources], bool))
    for row in rows[np.linspace(0, len(rows) - 1, min(_SAMPLES, len(rows))).astype(int)].tolist():
        try:
            picture = read_image(Path(findings.sources[row] or ""))
        except DataError:  # gone since the check
            continue
        picture.thumbnail(_THUMBNAIL)
        yield findings.rows.slice(row, 1).to_pylist()[0] | {"picture": jpeg(picture)}
