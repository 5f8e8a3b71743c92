"""Print the tables of docs/results.md from what `make evidence` has kept.

python benchmarks/evidence_tables.py [--tasks scenes,styles]
"""

import argparse
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "evidence"
_KIND = "accuracy_"  # of one kind of row
_HEADS = ("Method", "Accuracy", "Over EPIC (95%)", "p", "Trained", "Seconds", "Memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    known = ",".join(path.stem for path in sorted(FOLDER.glob("*.json")))
    parser.add_argument("--tasks", default=known)
    for task in parser.parse_args().tasks.split(","):
        print(f"\n{task}\n")
        print("\n".join(table(json.loads((FOLDER / f"{task}.json").read_text()))))


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown of a comparison: main metric, difference, cost, and accuracy of each kind of row."""
    main_rows = [row for row in rows if row["metric"] == rows[0]["metric"]]
    kinds = sorted({row["metric"] for row in rows if row["metric"].startswith(_KIND)})
    kinds = [kind for kind in kinds if kind != "accuracy_top5"]
    values = {(row["method"], row["metric"]): row["mean"] for row in rows}
    heads = [*_HEADS, *(kind.removeprefix(_KIND) for kind in kinds)]
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    for row in main_rows:
        cells = [
            f"`{row['method']}`",
            f"{100 * row['mean']:.1f}" + (f" ± {100 * row['std']:.1f}" if row["std"] else ""),
            _interval(row),
            "" if row["p_value"] is None else max(f"{row['p_value']:.3f}", "0.001"),
            "" if row["trainable"] is None else f"{row['trainable'] / 1e3:,.0f} k",
            "" if row["seconds"] is None else f"{row['seconds']:,.0f}",
            "" if row["peak_memory_mb"] is None else f"{row['peak_memory_mb']:,.0f} MB",
        ]
        found = (values.get((row["method"], kind)) for kind in kinds)
        cells += ["" if value is None else f"{100 * value:.1f}" for value in found]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _interval(row: dict[str, Any]) -> str:
    if row["difference"] is None:
        return ""
    difference, low, high = (100 * row[name] for name in ("difference", "low", "high"))
    return f"{difference:+.1f} ({low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    main()
