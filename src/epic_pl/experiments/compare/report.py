"""What a comparison leaves to read: Markdown, CSV, JSON, and a table on the console."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from epic_pl.experiments.compare.files import write_json
from epic_pl.experiments.compare.plot import draw
from epic_pl.experiments.compare.results import Row

_NONE = "\N{EN DASH}"
_COLUMNS: dict[str, Callable[[Row], str]] = {
    "seeds": lambda row: str(len(row["seeds"])) if row["seeds"] else _NONE,
    "p": lambda row: _p_value(row["p_value"]),
    "trained": lambda row: _number(row["trainable"]),
    "of encoders": lambda row: _percent(row["encoder_share"], 2),
    "samples/s": lambda row: _number(row["samples_per_s"], 1),
    "peak MB": lambda row: _number(row["peak_memory_mb"], 1),
    "seconds": lambda row: _number(row["seconds"], 1),
    "to best": lambda row: _number(row["seconds_to_best"], 1),
    "cache": lambda row: row["cache_level"] or _NONE,
}


def write_report(rows: Sequence[Row], folder: Path, reference: str, notes: str) -> None:
    """Write ``comparison.{md,csv,json,png}`` to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "comparison.json", list(rows))
    _write_csv(rows, folder / "comparison.csv")
    (folder / "comparison.md").write_text(markdown(rows, reference, notes), encoding="utf-8")
    draw(rows, folder / "comparison.png")


def markdown(rows: Sequence[Row], reference: str, notes: str) -> str:
    """The main metric with costs, then all metrics, then what is missing."""
    main = rows[0]["metric"]
    first = [row for row in rows if row["metric"] == main]
    heads = ["method", f"{main} %", f"difference from {reference} (95%)", *_COLUMNS]
    lines = ["# Comparison", "", *_table(heads, [_cells(row) for row in first])]
    others = list(dict.fromkeys(row["metric"] for row in rows))
    if len(others) > 1:
        lines += ["", "## All metrics", ""]
        lines += _table(["method", *(f"{name} %" for name in others)], _metric_cells(rows, others))
    missing = [row for row in first if row["status"] != "ok"]
    if missing:
        lines += ["", "## Not in the means", ""]
        lines += [f"- `{row['method']}`: {row['status']}" for row in missing]
    lines += [
        "",
        f"± is the standard deviation over seeds. p: two-sided, paired bootstrap over the test "
        f"samples against `{reference}`. seconds: training with validation, mean over seeds; "
        "stored features are filled before. peak MB: beyond what was held as training began.",
        "",
        notes,
        "",
    ]
    return "\n".join(lines)


def show(rows: Sequence[Row], console: Console) -> None:
    """The main metric of every method."""
    main = rows[0]["metric"]
    table = Table(title="Test split", title_justify="left")
    # what a terminal of 80 columns has room for; the files have all
    shown = ("p", "trained", "samples/s", "peak MB", "seconds")
    for head in ("method", f"{main} %", *shown):
        table.add_column(head, justify="left" if head == "method" else "right", no_wrap=True)
    for row in rows:
        if row["metric"] == main:
            table.add_row(row["method"], _value(row), *(_COLUMNS[name](row) for name in shown))
    console.print(table)
    for row in rows:
        if row["metric"] == main and row["status"] != "ok":
            console.print(f"{row['method']}: {row['status']}", soft_wrap=True, markup=False)


def _cells(row: Row) -> list[str]:
    interval = _NONE
    if row["difference"] is not None:
        low, high = (f"{100 * row[key]:+.1f}" for key in ("low", "high"))
        interval = f"{100 * row['difference']:+.1f} ({low} to {high})"
    return [row["method"], _value(row), interval, *(cell(row) for cell in _COLUMNS.values())]


def _value(row: Row | None) -> str:
    """Percent with the spread over seeds."""
    if row is None or row["mean"] is None:
        return _NONE
    spread = "" if row["std"] is None else f" ± {100 * row['std']:.1f}"
    return f"{100 * row['mean']:.1f}{spread}"


def _metric_cells(rows: Sequence[Row], metrics: Sequence[str]) -> list[list[str]]:
    found = {(row["method"], row["metric"]): row for row in rows}
    names = dict.fromkeys(row["method"] for row in rows)
    return [[name, *(_value(found.get((name, metric))) for metric in metrics)] for name in names]


def _table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (heads, rule, *body)]


def _write_csv(rows: Sequence[Row], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({key: _flat(value) for key, value in row.items()} for row in rows)


def _flat(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _number(value: float | None, digits: int = 0) -> str:
    return _NONE if value is None else f"{value:,.{digits}f}"


def _percent(value: float | None, digits: int) -> str:
    return _NONE if value is None else f"{value:.{digits}%}"


def _p_value(value: float | None) -> str:
    if value is None:
        return _NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
