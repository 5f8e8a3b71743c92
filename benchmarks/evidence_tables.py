"""Write docs/evidence.md, a table of each task, from what `make evidence` has kept.

python benchmarks/evidence_tables.py [--to docs/evidence.md]
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from epic_pl.experiments.compare.results import MAJORITY

FOLDER = Path(__file__).parent / "evidence"
_KIND = "accuracy_"  # of one kind of row
_LEVEL = 0.05
_HEADS = ("Method", "Accuracy", "Difference (95%)", "p", "Trained", "Seconds", "Memory")


# in this order, each with what a reader must know
_TASKS = {
    "free": "Composed images, things at free places; pairs of things that training never shows "
    "together. 10,000 training rows.",
    "ablations": "The same task: parts with the options of scenes.yaml, one ingredient taken out.",
    "free_2000": "As free, 2,000 training rows, with the options that were chosen on 10,000.",
    "free_50000": "As free, 50,000 training rows, with the options that were chosen on 10,000.",
    "free_objects": "As free; things that training never shows.",
    "styles": "Trained on OpenMoji's drawings, tested on Noto's.",
    "openmoji_entailment": "A development set.",
    "openmoji": "A development set.",
}
_PAGE = """\
# Evidence

Accuracy, or micro F1 at 0.5 of several labels, on test splits that `make evidence` opened once
(`benchmarks/ledger.md`); on development sets, options were chosen on the same rows. Every method
had the same parts of the head and the same trials on validation to choose from; five seeds move
everything. Differences are from the first method, intervals are over images, p has Holm's
correction for the number of methods. Seconds are of training and validation; storing the features
comes on top, once for all methods together. Each task names the commit that was tested: earlier
ones had other heads, hubs and first prompts. {doc}`results` says what follows. Written by
`python benchmarks/evidence_tables.py`; `benchmarks/evidence/` has all metrics and chosen options.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--evidence", type=Path, default=FOLDER)
    parser.add_argument("--to", type=Path, default=FOLDER.parents[1] / "docs" / "evidence.md")
    arguments = parser.parse_args()
    found = {path.stem: path for path in sorted(arguments.evidence.glob("*.json"))}
    parts = [_PAGE]
    for task in sorted(found, key=lambda name: [*_TASKS, name].index(name)):
        rows = json.loads(found[task].read_text())
        about = _TASKS.get(
            task,
            "A table of `benchmarks/tables.py`, with the options that were chosen on openmoji.",
        )
        about += opened(task, arguments.evidence.parent / "ledger.md")
        lines = [f"## {task}", "", about, "", *table(rows), "", caption(rows)]
        parts.append("\n".join([*lines, *encoding(found[task].with_suffix(".md"))]) + "\n")
    arguments.to.write_text("\n".join(parts), encoding="utf-8")
    print(f"{len(found)} tasks written to {arguments.to}")


def opened(task: str, ledger: Path) -> str:
    """When, and at which commit, the ledger says that a task was finished last."""
    lines = [line.strip("| ").split(" | ") for line in ledger.read_text().splitlines()]
    done = [cells for cells in lines if cells[2:3] == [task] and "majority" in cells[-1]]
    return f" Tested on {done[-1][0]} at commit {done[-1][1]}." if done else ""


def caption(rows: list[dict[str, Any]]) -> str:
    """Which methods the first one is not shown to be better than."""
    reference = next(row["method"] for row in rows if row["method"] != MAJORITY)
    compared = [
        row for row in rows if row["metric"] == rows[0]["metric"] and row["difference"] is not None
    ]
    better = [r["method"] for r in compared if r["difference"] > 0 and r["p_value"] < _LEVEL]
    level = [r["method"] for r in compared if r["p_value"] >= _LEVEL]
    named = (", ".join(f"`{name}`" for name in names) for names in (better, level))
    above, beside = (names or "none" for names in named)
    apart = f"Not told apart from it (p at least {_LEVEL}): {beside}."
    return f"Better than `{reference}`: {above}. {apart}"


def encoding(page: Path) -> list[str]:
    """What storing the features took, where it is noted."""
    noted = re.findall(r"Storing the features(?: of `\w+`)? took ([\d,]+) s", page.read_text())
    return [f"Storing the features took {noted[-1]} s."] if noted else []


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
