"""How a training step's time and memory grow with K, n, tokens, batch and rows.

Varies one thing at a time around ViT-B/16 + BERT-base, K=4, n=4, 40 tokens, batch 16; each point is
a run of ``step_cost.py``, that is of the real Trainer in a process of its own:

    python benchmarks/scaling.py                     # epic_read_only_cached, about ten minutes
    python benchmarks/scaling.py --method epic_joint --vary layers,batch --json
    python benchmarks/scaling.py --plot docs/images/scaling.png
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

STEP_COST = Path(__file__).with_name("step_cost.py")
VARIED: dict[str, list[int]] = {
    "layers": [1, 2, 4, 8, 12],
    "prompts": [1, 4, 16, 32],
    "tokens": [10, 40, 160, 320],
    "batch": [4, 16, 64, 256],
    "rows": [64, 512, 2048],
}
NAMES = {
    "layers": "interaction layers K",
    "prompts": "prompts n",
    "tokens": "text tokens",
    "batch": "batch size",
    "rows": "rows in the cache",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--method", default="epic_read_only_cached", help="of step_cost.py")
    parser.add_argument("--vary", default=",".join(VARIED))
    parser.add_argument("--seconds", default="4", help="timed at each point")
    parser.add_argument("--plot", type=Path, help="also draw the curves into this PNG")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    options, more = parser.parse_known_args()
    names = options.vary.split(",")
    if unknown := [name for name in names if name not in VARIED]:
        raise SystemExit(f"Cannot vary {', '.join(unknown)}; choose from {', '.join(VARIED)}.")
    common = ["--methods", options.method, "--seconds", options.seconds, "--json", *more]
    rows = [point(name, value, common) for name in names for value in VARIED[name]]
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        show(rows)
    if options.plot:
        draw(rows, options.plot)


def point(name: str, value: int, common: list[str]) -> dict[str, Any]:
    """Measure one setting."""
    setting = {
        "layers": ["--model", json.dumps({"interaction_layers": value})],
        "prompts": ["--model", json.dumps({"num_prompts": value})],
        "tokens": ["--tokens", str(value)],
        "batch": ["--batch", str(value)],
        "rows": ["--rows", str(value)],
    }[name]
    print(f"{NAMES[name]}: {value} ...", file=sys.stderr, flush=True)
    command = [sys.executable, str(STEP_COST), *common, *setting]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    row: dict[str, Any] = json.loads(done.stdout)[0]
    batch = value if name == "batch" else 16
    return {
        "varied": name,
        "value": value,
        "ms_per_step": 1000 * batch / row["samples_per_s"],
        **row,
    }


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
    """A panel for each thing varied: milliseconds a step, and peak memory."""
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
