"""Growth of a training step's time and memory with K, n, tokens, batch and rows.

Varies one thing at a time around ViT-B/16 + BERT-base, K=4, n=4, 40 tokens, batch 16; each point is
measured as ``step_cost.py`` does, through the real Trainer in a process of its own, and takes its
options:

    python benchmarks/scaling.py                     # epic_read_only_cached, some seven minutes
    python benchmarks/scaling.py --method epic_joint --vary layers,batch --json
    python benchmarks/scaling.py --plot docs/images/scaling.png

Each point is printed on stderr when it is measured. Ctrl-C, or a point that fails, ends with the
table and the plot of those before it.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

import step_cost

# few rows: two slow cores store the features of seven in a second
_ROWS = 64
# 128 + SIGINT, as shells have it
_INTERRUPTED = 130
VARIED: dict[str, list[int]] = {
    "layers": [1, 4, 8, 12],
    "prompts": [1, 4, 16, 32],
    "tokens": [10, 40, 160, 320],
    "batch": [4, 16, 64, 256],
    "rows": [64, 256, 512],
}
NAMES = {
    "layers": "interaction layers K",
    "prompts": "prompts n",
    "tokens": "text tokens",
    "batch": "batch size",
    "rows": "rows in the cache",
}


class Setting(NamedTuple):
    """The setting of a point."""

    layers: int
    prompts: int
    tokens: int
    batch: int
    rows: int

    def vary(self, name: str, value: int) -> "Setting":
        """The same setting with one value changed; rows are at least a batch."""
        varied = self._replace(**{name: value})
        return varied._replace(rows=max(varied.rows, varied.batch)) if name == "batch" else varied


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--method", default="epic_read_only_cached", help="of step_cost.py")
    parser.add_argument("--vary", default=",".join(VARIED))
    parser.add_argument("--seconds", default="3", help="timed at each point")
    parser.add_argument("--plot", type=Path, help="also draw the curves into this PNG")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options, more = parser.parse_known_args()
    names = options.vary.split(",")
    if unknown := [name for name in names if name not in VARIED]:
        raise SystemExit(f"Cannot vary {', '.join(unknown)}; choose from {', '.join(VARIED)}.")
    if options.method not in step_cost.METHODS:
        raise SystemExit(f"No method {options.method}; there are: {', '.join(step_cost.METHODS)}.")
    rows: list[dict[str, Any]] = []
    code: int | str | None = 0
    try:
        for row in points(options.method, names, ["--seconds", options.seconds, *more]):
            rows.append(row)
            print(line(row), file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except SystemExit as failure:  # a point that was too much for the machine, with its message
        code = failure.code
    if rows:
        report(rows, options)
    sys.exit(code)


def report(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print the rows, and draw them if asked to."""
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        show(rows)
    if options.plot:
        draw(rows, options.plot)


def points(method: str, names: list[str], more: list[str]) -> Iterator[dict[str, Any]]:
    """Measure all settings, each once."""
    given = step_cost.parse_arguments(more)
    model = json.loads(given.model)
    epic = {"interaction_layers": 4, "num_prompts": 4, **model.get("epic", {})}
    layers, prompts = epic["interaction_layers"], epic["num_prompts"]
    start = Setting(layers, prompts, given.tokens, given.batch, given.rows or _ROWS)
    measured: dict[Setting, dict[str, Any]] = {}
    for name in names:
        for value in VARIED[name]:
            setting = start.vary(name, value)
            if setting not in measured:
                measured[setting] = measure(method, setting, model, more)
            row = measured[setting]
            pace = {"ms_per_step": 1000 * setting.batch / row["samples_per_s"]}
            yield {"varied": name, "value": value} | pace | row


def measure(
    method: str, setting: Setting, model: dict[str, Any], more: list[str]
) -> dict[str, Any]:
    """A row of ``step_cost.py`` without the share of the machine's peak rate."""
    varied = {"interaction_layers": setting.layers, "num_prompts": setting.prompts}
    model = {**model, "epic": {**model.get("epic", {}), **varied}}
    arguments = [*more, "--tokens", str(setting.tokens), "--batch", str(setting.batch)]
    arguments += ["--model", json.dumps(model)]
    options = step_cost.parse_arguments(arguments)
    with tempfile.TemporaryDirectory(prefix="epic_pl_bench_") as scratch:
        step_cost.fabricate(Path(scratch), setting.rows, setting.tokens)
        if step_cost.METHODS[method].level != "off":
            step_cost.start_worker(options, method, scratch, "--fill")
        row: dict[str, Any] = json.loads(step_cost.start_worker(options, method, scratch))
    return row


def line(row: dict[str, Any]) -> str:
    """A point as a line of text."""
    return (
        f"{NAMES[row['varied']]} {row['value']}: {row['ms_per_step']:.0f} ms a step, "
        f"{row['samples_per_s']:.1f} samples/s, peak {row['peak_memory_mb']:,.0f} MB"
    )


def show(rows: list[dict[str, Any]]) -> None:
    table = Table(title=f"{rows[0]['method']}, {rows[0]['device']}", title_justify="left")
    table.add_column("varied")
    for column in ("value", "ms/step", "samples/s", "peak MB", "cache kB/sample", "trainable"):
        table.add_column(column, justify="right")
    before = None
    for row in rows:
        if row["varied"] != before:
            table.add_section()
            before = row["varied"]
        table.add_row(
            NAMES[row["varied"]],
            str(row["value"]),
            f"{row['ms_per_step']:.0f}",
            f"{row['samples_per_s']:.1f}",
            f"{row['peak_memory_mb']:,.0f}",
            f"{row['cache_bytes_per_sample'] / 1e3:,.0f}",
            f"{row['trainable'] / 1e6:.2f} M",
        )
    Console(width=110).print(table)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Two panels for each axis: milliseconds a step, and peak memory."""
    from matplotlib.figure import Figure

    varied = list(dict.fromkeys(row["varied"] for row in rows))
    figure = Figure(figsize=(3.2 * len(varied), 5), layout="constrained")
    axes = figure.subplots(2, len(varied), squeeze=False)
    for column, name in enumerate(varied):
        points = [row for row in rows if row["varied"] == name]
        values = [row["value"] for row in points]
        for line, (key, label) in enumerate(
            (("ms_per_step", "ms a step"), ("peak_memory_mb", "peak memory over start, MB"))
        ):
            axis = axes[line][column]
            axis.plot(values, [row[key] for row in points], marker="o")
            axis.set(xscale="log", xlabel=NAMES[name] if line else "", ylim=(0, None))
            axis.set_xticks(values, [str(value) for value in values])
            axis.minorticks_off()
            if column == 0:
                axis.set_ylabel(label)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
