"""Tables of a comparison: Markdown, JSON, and on the console."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from epic_pl.experiments.compare.plan import Outcome
from epic_pl.experiments.compare.plot import draw
from epic_pl.experiments.compare.results import Row, comparison_rows
from epic_pl.experiments.files import write_json, write_text

_NONE = "\N{EN DASH}"
_COLUMNS: dict[str, Callable[[Row], str]] = {
    "seeds": lambda row: str(len(row["seeds"])) if row["seeds"] else _NONE,
    "p": lambda row: _p_value(row["p_value"]),
    "trained": lambda row: _number(row["trainable"], ",.0f"),
    "of encoders": lambda row: _number(row["encoder_share"], ".2%"),
    "samples/s": lambda row: _number(row["samples_per_s"]),
    "peak MB": lambda row: _number(row["peak_memory_mb"]),
    "seconds": lambda row: _number(row["seconds"]),
    "cache": lambda row: str(row["cache_level"] or _NONE),
}
_LEGEND = (
    "± is the standard deviation over seeds. p: two-sided, paired bootstrap against `{reference}`, "
    "over the images of the test split, or over its samples where images are not known, with "
    "Holm's correction for the number of methods. "
    "seconds: training with validation, mean over seeds; stored features are filled before. "
    "peak MB: above the memory held when training began."
)


def write_report(
    outcomes: Sequence[Outcome], folder: Path, reference: str, notes: str, complete: bool = True
) -> list[Row]:
    """Write ``comparison.{md,json,png}`` to a folder, and return the rows.

    A report that is not complete has no bootstrap, and is not written without a finished run.
    """
    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    rows = comparison_rows(outcomes, reference, tested=complete)
    if not results and not complete:
        return rows
    places = sorted({f"{result['device']}, torch {result['torch']}" for result in results})
    notes += f" Run on {'; '.join(places) or 'nothing'}."
    if not complete:
        notes = f"Not complete, and no difference is tested yet. {notes}"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "comparison.json", rows)
    write_text(folder / "comparison.md", _markdown(rows, reference, notes))
    draw(rows, folder / "comparison.png")
    return rows


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the main metric of every method."""
    main = rows[0]["metric"]
    table = Table(title="Test split", title_justify="left")
    # as much as fits into 80 columns; the files have all
    shown = ("p", "trained", "peak MB", "seconds")
    for head in ("method", f"{main} %", *shown):
        table.add_column(head, justify="left" if head == "method" else "right", no_wrap=True)
    first = [row for row in rows if row["metric"] == main]
    for row in first:
        table.add_row(row["method"], _value(row), *(_COLUMNS[name](row) for name in shown))
    console.print(table)
    for row in first:
        if row["status"] != "ok":
            console.print(f"{row['method']}: {row['status']}", soft_wrap=True, markup=False)


def _markdown(rows: Sequence[Row], reference: str, notes: str) -> str:
    """The main metric with costs, then all metrics, then the runs that are missing."""
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    first = [row for row in rows if row["metric"] == metrics[0]]
    heads = ["method", f"{metrics[0]} %", f"difference from {reference} (95%)", *_COLUMNS]
    lines = ["# Comparison", "", *_table(heads, [_cells(row) for row in first])]
    if len(metrics) > 1:
        values = {(row["method"], row["metric"]): _value(row) for row in rows}
        body = [
            [row["method"], *(values.get((row["method"], name), _NONE) for name in metrics)]
            for row in first
        ]
        lines += ["", "## All metrics", ""]
        lines += _table(["method", *(f"{name} %" for name in metrics)], body)
    missing = [f"- `{row['method']}`: {row['status']}" for row in first if row["status"] != "ok"]
    if missing:
        lines += ["", "## Not in the means", "", *missing]
    return "\n".join([*lines, "", _LEGEND.format(reference=reference), "", notes, ""])


def _cells(row: Row) -> list[str]:
    interval = _NONE
    if row["difference"] is not None:
        low, high = (f"{100 * row[key]:+.1f}" for key in ("low", "high"))
        interval = f"{100 * row['difference']:+.1f} ({low} to {high})"
    return [row["method"], _value(row), interval, *(cell(row) for cell in _COLUMNS.values())]


def _table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (heads, rule, *body)]


def _value(row: Row) -> str:
    """Percent with the spread over seeds."""
    spread = "" if row["std"] is None else f" ± {100 * row['std']:.1f}"
    return _NONE if row["mean"] is None else f"{100 * row['mean']:.1f}{spread}"


def _number(value: float | None, form: str = ",.1f") -> str:
    return _NONE if value is None else format(value, form)


def _p_value(value: float | None) -> str:
    return "< 0.001" if value is not None and value < 0.001 else _number(value, ".3f")
