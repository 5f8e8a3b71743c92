"""Draw accuracy on scenes over the number of training rows, from what `make evidence` has kept.

python benchmarks/learning_curve.py [--to docs/images/learning_curve.png]
"""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

TASKS = {2_000: "free_2000", 10_000: "free", 50_000: "free_50000"}
METHODS = ("parts", "epic", "no_prompts", "late_fusion_mlp", "cca")
PANELS = {"accuracy": "all statements", "accuracy_relation": "relations"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    folder = Path(__file__).parent
    parser.add_argument("--evidence", type=Path, default=folder / "evidence")
    default = folder.parent / "docs" / "images" / "learning_curve.png"
    parser.add_argument("--to", type=Path, default=default)
    arguments = parser.parse_args()
    found = {
        rows: json.loads(path.read_text())
        for rows, task in TASKS.items()
        if (path := arguments.evidence / f"{task}.json").is_file()
    }
    if not found:
        raise SystemExit(f"{arguments.evidence} has no scenes: run make evidence first.")
    draw(found, arguments.to)
    print(f"Drawn to {arguments.to}")


def draw(found: dict[int, list[dict[str, Any]]], path: Path) -> None:
    """A panel for each metric, a line for each method, with the spread over seeds."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, len(PANELS), sharey=True)
    for axes, (metric, title) in zip(panels, PANELS.items(), strict=True):
        for method in METHODS:
            points = [
                (count, 100 * row["mean"], 100 * (row["std"] or 0))
                for count, rows in found.items()
                for row in rows
                if (row["method"], row["metric"]) == (method, metric)
            ]
            if points:
                counts, means, spreads = zip(*points, strict=True)
                axes.errorbar(counts, means, spreads, fmt="o-", capsize=3, label=method)
        axes.axhline(50, color="grey", linestyle=":", label="chance")
        axes.set(xscale="log", xlabel="training rows", title=title)
        axes.set_xticks(list(found), [f"{count:,}" for count in found], minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("test accuracy, %")
    panels[0].legend(fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
