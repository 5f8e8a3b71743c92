"""The files of a comparison (tables in Markdown, rows in JSON, a plot) and its console table."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullFormatter
from rich.console import Console
from rich.table import Column, Table

from epic_pl.experiments.compare.results import ALONE, Row, comparison_rows
from epic_pl.experiments.compare.statistics import TESTED
from epic_pl.experiments.runs import Run
from epic_pl.report.scores import label
from epic_pl.utils.files import try_read_json, write_bytes, write_json, write_text
from epic_pl.utils.html_page import BLUE, GREY, plot_style, png, shorten

_NONE = "\N{EN DASH}"
_ABSENT: Row = dict.fromkeys(("mean", "std", "difference"))  # of a metric that a method lacks
_COLUMNS: dict[str, Callable[[Row], str]] = {
    "ms/record": lambda row: _number(row["latency_ms"]),
    "seeds": lambda row: str(len(row["seeds"])) if row["seeds"] else _NONE,
    "p": lambda row: _p_value(row["p_value"]),
    "trained": lambda row: _number(row["trainable"], ",.0f"),
    "of encoders": lambda row: _number(row["encoder_share"], ".2%"),
    "samples/s": lambda row: _number(row["samples_per_s"]),
    "peak MB": lambda row: _number(row["peak_memory_mb"]),
    "seconds": lambda row: _number(row["seconds"]),
    "cache": lambda row: str(row["cache_level"] or _NONE),
}
_ON_CONSOLE = ("p", "trained", "peak MB", "seconds")  # columns that fit into 80 characters
_LEGEND = (
    "ms/record: a call of `Classifier` with one image and text of the test split, median of 20. "
    "± is the standard deviation over seeds. Differences from `{reference}` have intervals of a "
    "paired bootstrap over the images of the test split, or over its samples where images are not "
    "known. p: two-sided, of the first difference, with Holm's correction for the number of "
    "methods. "
    "seconds: training with validation, mean over seeds; stored features are filled before. "
    "peak MB: above the memory held when training began. "
    "cache: stored features, where tokens are those that enter the first interaction layer."
)
_THRESHOLDS = (
    "map: mean average precision, which needs no threshold. f1_...: all methods at a threshold of "
    "0.5; f1_..._tuned: all at thresholds fitted on validation, which are 0.5 without such rows. "
)
_PLOTTED = {"seconds": "training, s", "trainable": "trained parameters"}


def write_comparison(runs: Sequence[Run], folder: Path, reference: str, notes: str) -> list[Row]:
    """Write ``comparison.{md,json,png}`` to a folder, and return the rows.

    Until all runs have ended, the bootstrap is left out. Without a result nothing is written.
    """
    results = [run.result for run in runs if run.result is not None]
    rows = comparison_rows(runs, reference)
    complete = all(run.ended for run in runs)
    if not results and not complete:
        return rows
    places = sorted({f"{result['device']}, torch {result['torch']}" for result in results})
    ahead = {run.folder.with_name("features") / "result.json" for run in runs}
    storing_s = sum((try_read_json(path) or {}).get("seconds", 0.0) for path in ahead)
    if storing_s := storing_s + sum(result.get("storing_s") or 0 for result in results):
        notes += f" Storing the features took {storing_s:.0f} s."
    notes += f" Run on {'; '.join(places) or 'nothing'}."
    if not complete:
        notes = f"Not complete, and no difference is tested yet. {notes}"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "comparison.json", rows)
    write_text(folder / "comparison.md", _markdown(rows, reference, notes))
    write_bytes(folder / "comparison.png", png(_draw_comparison(rows, reference)))
    return rows


def show(rows: Sequence[Row]) -> None:
    """Print the main metric of every method, and the reasons why runs are missing."""
    console, first = Console(), [row for row in rows if row["metric"] == rows[0]["metric"]]
    heads = (f"{first[0]['metric']} %", *_ON_CONSOLE)
    numbers = (Column(head, justify="right", no_wrap=True) for head in heads)
    table = Table(Column("method", no_wrap=True), *numbers, title="Test split")
    for row in first:
        table.add_row(row["method"], _percent(row), *(_COLUMNS[name](row) for name in _ON_CONSOLE))
    console.print(table)
    for line in _over_alone(first):
        console.print(line, soft_wrap=True, markup=False)
    for row in first:
        if row["status"] != "ok":
            console.print(f"{row['method']}: {row['status']}", soft_wrap=True, markup=False)


def _markdown(rows: Sequence[Row], reference: str, notes: str) -> str:
    """Text with the main metric and costs, then all metrics, then the missing runs."""
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    first = [row for row in rows if row["metric"] == metrics[0]]
    known = defaultdict(lambda: _ABSENT, {(row["method"], row["metric"]): row for row in rows})
    tested = [name for name in chain(*TESTED.values()) if name in metrics]
    differs = f"difference from {reference} (95%)"
    heads = ["method", *(head for name in tested for head in (f"{name} %", differs)), *_COLUMNS]
    body = []
    for row in first:
        found = (known[row["method"], name] for name in tested)
        pairs = ((_percent(each), _difference(each)) for each in found)
        body.append([row["method"], *chain(*pairs), *(cell(row) for cell in _COLUMNS.values())])
    lines = ["# Comparison", "", *_markdown_table(heads, body)]
    if gains := _over_alone(first):
        lines += ["", *(f"- {gain}" for gain in gains)]
    if len(metrics) > 1:
        body = [
            [row["method"], *(_percent(known[row["method"], name]) for name in metrics)]
            for row in first
        ]
        heads = ["method", *(f"{name} %" for name in metrics)]
        lines += ["", "## All metrics", "", *_markdown_table(heads, body)]
    missing = [f"- `{row['method']}`: {row['status']}" for row in first if row["status"] != "ok"]
    if missing:
        lines += ["", "## Not in the means", "", *missing]
    legend = _THRESHOLDS * ("map" in metrics) + _LEGEND.format(reference=reference)
    return "\n".join([*lines, "", legend, "", notes, ""])


def _over_alone(rows: Sequence[Row]) -> list[str]:
    """A line for each method that also has runs on one modality: what the other one adds."""
    values, lines = {row["method"]: _percent(row) for row in rows}, []
    for row in rows:
        if (gain := row["over_alone"]) is None:
            continue
        name, better = row["method"], str(gain["alone"]).rpartition("-")[2]
        alone = {each: values.get(f"{name}-{each}") for each in ALONE}
        scores = [f"{each} alone {score}" for each, score in alone.items() if score is not None]
        lines.append(
            f"{name}: {', '.join(scores)}, together {values[name]} %. This minus the {better} "
            f"alone: {_difference(gain)} points (95%)."
        )
    return lines


def _markdown_table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (heads, rule, *body)]


def _percent(row: Row) -> str:
    """The metric in percent, with the standard deviation over seeds."""
    spread = "" if row["std"] is None else f" ± {100 * row['std']:.1f}"
    return _NONE if row["mean"] is None else f"{100 * row['mean']:.1f}{spread}"


def _difference(row: Row) -> str:
    if row["difference"] is None:
        return _NONE
    mean, low, high = (f"{100 * row[key]:+.1f}" for key in ("difference", "low", "high"))
    return f"{mean} ({low} to {high})"


def _number(value: float | None, form: str = ",.1f") -> str:
    return _NONE if value is None else format(value, form)


def _p_value(value: float | None) -> str:
    return "< 0.001" if value is not None and value < 0.001 else _number(value, ".3f")


@plot_style()
def _draw_comparison(rows: Sequence[Row], reference: str) -> Figure:
    """A figure with a line for each method: main metric, difference and costs."""
    main = rows[0]["metric"]
    shown = [row for row in rows if row["metric"] == main and row["seeds"]][::-1]
    figure = Figure(figsize=(11, 1.6 + 0.3 * len(shown)))
    panels = figure.subplots(1, 2 + len(_PLOTTED), sharey=True, width_ratios=(3, 3, 2, 2))
    score, difference, *costs = panels
    style = {"fmt": "o", "color": BLUE, "capsize": 3}
    for at, row in enumerate(shown):
        # NaN, of a metric that is not defined, is not drawn
        mean, values = (100 * np.array(row[key], float) for key in ("mean", "values"))
        score.errorbar(mean, at, xerr=100 * (row["std"] or 0), **style)
        score.plot(values, np.full_like(values, at), "|", color=GREY, zorder=3)
        if row["difference"] is not None:
            low, mean, high = (100 * row[key] for key in ("low", "difference", "high"))
            # with few samples the interval may not contain the mean
            bounds = [[max(mean - low, 0)], [max(high - mean, 0)]]
            difference.errorbar(mean, at, xerr=bounds, **style)
        for axes, cost in zip(costs, _PLOTTED, strict=True):
            if value := row[cost]:  # a logarithmic axis has no zero
                axes.plot(value, at, "o", color=BLUE)
                axes.annotate(f" {EngFormatter(places=1, sep='')(value)}", (value, at), va="bottom")
    difference.axvline(0, color=GREY, linestyle="--")
    score.set_xlabel(f"test {label(main)}, %\nmean ± std over seeds (grey: each)")
    difference.set_xlabel(f"difference from {reference}, points\n95% interval of the bootstrap")
    for axes, cost in zip(costs, _PLOTTED.values(), strict=True):
        axes.set(xscale="log", xlabel=cost)
        axes.margins(x=0.3)
        axes.xaxis.set_minor_formatter(NullFormatter())
    score.set_yticks(range(len(shown)), [shorten(row["method"], 24) for row in shown])
    score.set_ylim(-0.6, len(shown) - 0.4)
    for axes in panels:
        axes.grid()
    return figure
