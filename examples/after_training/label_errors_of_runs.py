"""List labels that are probably wrong, from predictions of models that did not train on their rows.

    epic-pl compare --config my/epic.yaml --methods LateFusionMLP --splits --seeds 15
    python label_errors_of_runs.py runs/compare/my > suspects.csv

Every seed has another test split, so that 15 of them test 96% of the rows. The list begins with the
most suspicious label; look at as many as you have time for, and correct the table.
"""

import csv
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

PREFIX = "probability_"


def suspects(comparison: Path, method: str = "*") -> list[dict[str, Any]]:
    """Rows of the table, the most suspicious first; of several labels, pairs of row and label."""
    runs = list(comparison.glob(f"runs/{method}-*/predictions.parquet"))
    tested: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        for row in pq.read_table(run).to_pylist():
            tested[row["sample_id"]].append(row)
    found = []
    for sample_id, rows in tested.items():
        names = [column for column in rows[0] if column.startswith(PREFIX)]
        mean = {
            name.removeprefix(PREFIX): sum(row[name] for row in rows) / len(rows) for name in names
        }
        truth = rows[0]["truth"]
        row = {"sample_id": sample_id, "image_path": rows[0]["image_path"]}
        if isinstance(truth, list):
            for label, score in mean.items():
                given = label in truth
                proposed = {"given": label if given else "", "proposed": "" if given else label}
                found.append(row | proposed | {"agreement": score if given else 1 - score})
        else:
            best = max(mean, key=lambda label: mean[label])
            if best != truth:
                gap = mean[truth] - mean[best]
                found.append(row | {"given": truth, "proposed": best, "agreement": gap})
    return sorted(found, key=lambda each: each["agreement"])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if not (found := suspects(Path(sys.argv[1]))):
        sys.exit(f"{sys.argv[1]} has no finished run with predictions, or no label is doubted.")
    runs = len(list(Path(sys.argv[1]).glob("runs/*/predictions.parquet")))
    print(f"{runs} finished runs, {len(found)} labels that they doubt", file=sys.stderr)
    writer = csv.DictWriter(sys.stdout, list(found[0]))
    writer.writeheader()
    writer.writerows(found)
