"""A check's findings on the console and as one HTML page that needs no other file."""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Table

from epic_pl.data.images import read_image
from epic_pl.errors import DataError
from epic_pl.html_page import STYLE, inline_picture, jpeg, png
from epic_pl.inspection.findings import Findings

_COLOURS = {"error": "red", "warning": "yellow", "note": "dim"}
_SAMPLES = 12
_CLASSES_SHOWN = 40
_THUMBNAIL = (160, 160)


def verdict(findings: Findings) -> str:
    """One sentence."""
    if findings.can_train:
        return "Training can start."
    errors = sum(problem.level == "error" for problem in findings.problems)
    return f"Training cannot start: {errors} error{'s' if errors > 1 else ''}."


def split_counts(findings: Findings) -> list[tuple[str, list[int]]]:
    """Rows, classes, distinct pictures and rows without picture or text of each split."""
    counts = []
    for split, per_class in findings.class_counts.items():
        rows = findings.rows.filter(pc.equal(findings.rows["split"], split))
        values = [
            rows.num_rows,
            int((per_class > 0).sum()),
            pc.count_distinct(rows["image"]).as_py(),
            rows["image"].null_count,
            rows["text"].null_count,
        ]
        counts.append((split, values))
    return counts


_HEADINGS = ("split", "rows", "classes", "pictures", "no picture", "no text")


def print_summary(findings: Findings, console: Console) -> None:
    """Counts of each split, every problem, and whether training can start."""
    table = Table(*_HEADINGS)
    for split, values in split_counts(findings):
        table.add_row(split, *(f"{value:,}" for value in values))
    console.print(table)
    for problem in findings.problems:
        colour = _COLOURS[problem.level]
        text = escape_markup(problem.text)
        console.print(f"[{colour}]{problem.level}[/]: {text}", soft_wrap=True)
        for example in problem.examples:
            console.print(f"    {escape_markup(example)}", soft_wrap=True)
    console.print(verdict(findings), style="bold")


def write_report(findings: Findings, path: Path) -> Path:
    """Write the page; every text from the data is escaped.

    Returns:
        ``path``.
    """
    path.write_text("\n".join(_page(findings)), encoding="utf-8")
    return path


def _page(findings: Findings) -> Iterator[str]:
    title = f"Data check: {escape(findings.name)}"
    state = "note" if findings.can_train else "error"
    yield f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
    yield f"<style>{STYLE}</style><h1>{title}</h1>"
    yield f"<p class='verdict {state}'>{escape(verdict(findings))}</p>"
    yield "<table><tr>" + "".join(f"<th>{heading}</th>" for heading in _HEADINGS) + "</tr>"
    for split, values in split_counts(findings):
        cells = "".join(f"<td>{value:,}</td>" for value in values)
        yield f"<tr><td>{escape(split)}</td>{cells}</tr>"
    yield "</table><h2>Problems and notes</h2><ul>"
    for problem in findings.problems:
        examples = "".join(f"<br><small>{escape(example)}</small>" for example in problem.examples)
        yield f"<li class='{problem.level}'>{problem.level}: {escape(problem.text)}{examples}</li>"
    yield "</ul><h2>Classes</h2>"
    yield _class_table(findings)
    yield "<h2>Distributions</h2>"
    yield from _histograms(findings)
    yield "<h2>Samples</h2><div class='samples'>"
    yield from _samples(findings)
    yield "</div></html>"


def _class_table(findings: Findings) -> str:
    """Rows of each class in each split, the largest first."""
    splits = list(findings.class_counts)
    counts = np.array([findings.class_counts[split] for split in splits])
    if not counts.size:
        return "<p>None.</p>"
    order = np.argsort(-counts.sum(axis=0), kind="stable")
    lines = [f"<tr><th>class</th>{''.join(f'<th>{escape(s)}</th>' for s in splits)}</tr>"]
    for index in order:
        cells = "".join(f"<td>{count:,}</td>" for count in counts[:, index])
        lines.append(f"<tr><td>{escape(findings.class_names[index])}</td>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _histograms(findings: Findings) -> Iterator[str]:
    rows = findings.rows
    train = findings.class_counts.get("train")
    if train is not None and train.any():
        figure, axes = _figure("training rows of each class", "rows")
        largest = np.argsort(-train, kind="stable")[:_CLASSES_SHOWN]
        axes.bar(range(len(largest)), train[largest])
        names = [findings.class_names[i][:24] for i in largest]
        # a $ in a name starts no formula
        axes.set_xticks(range(len(largest)), names, rotation=90, fontsize=7, parse_math=False)
        yield _inline(figure)
    tokens = rows["tokens"].drop_null().to_numpy()
    if tokens.size:
        figure, axes = _figure("tokens of each text, before it is cut", "texts")
        axes.hist(tokens, bins=_bins(tokens))
        axes.axvline(findings.max_text_tokens, color="tab:red", label="max_text_tokens")
        axes.legend()
        yield _inline(figure)
    sides = pc.min_element_wise(rows["width"], rows["height"]).drop_null().to_numpy()
    if sides.size:
        figure, axes = _figure("shorter side of each picture, pixels", "rows")
        axes.hist(sides, bins=_bins(sides))
        yield _inline(figure)


def _bins(values: npt.NDArray[Any]) -> Any:
    return np.linspace(values.min() - 0.5, values.max() + 0.5, 40)


def _figure(title: str, unit: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_ylabel(unit)
    return figure, axes


def _inline(figure: Figure) -> str:
    return f"<p>{inline_picture(png(figure), 'png')}</p>"


def _samples(findings: Findings) -> Iterator[str]:
    """Sound samples spread over the rows, each with text and label."""
    sound = np.asarray(pc.is_null(findings.rows["kind"]))
    rows = np.flatnonzero(
        sound & np.array([source is not None for source in findings.sources], bool)
    )
    chosen: Sequence[int] = rows[
        np.linspace(0, len(rows) - 1, min(_SAMPLES, len(rows))).astype(int)
    ].tolist()
    for row in chosen:
        sample = findings.rows.slice(row, 1).to_pylist()[0]
        try:
            picture = read_image(Path(findings.sources[row] or ""))
        except DataError:  # gone since it was checked
            continue
        picture.thumbnail(_THUMBNAIL)
        caption = (
            f"{escape(sample['split'])} {escape(sample['sample_id'])}<br>"
            f"<b>{escape(str(sample['label']))}</b><br>{escape((sample['text'] or '')[:200])}"
        )
        yield f"<figure>{inline_picture(jpeg(picture), 'jpeg')}<figcaption>{caption}</figcaption>"
        yield "</figure>"
