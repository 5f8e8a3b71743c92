"""Seconds to grow the boosted trees of a table, by its classes and rows, and the cost of an answer.

    python benchmarks/trees.py                                # a few minutes
    python benchmarks/trees.py --sizes 1000x10000 --inputs 104 --json

Each row is a process of its own with one thread. The table has a price and a brand that depend on
the class, 32 components that do, and columns of noise. Seconds are of the processor; megabytes of a
batch are all that an answer for 256 rows allocates, an upper bound of its peak.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch

from common import build_parser, show
from epic_pl.nn.heads import trees
from epic_pl.nn.pair import Source

SIZES = "6x1000,20x10000,50x1000,100x2000,120x1200,100x10000,1000x10000"
TESTED, BATCH = 2000, 256


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("--sizes", default=SIZES, help="CLASSESxROWS, separated by commas")
    parser.add_argument("--inputs", type=int, default=168)
    parser.add_argument("--own", action="store_true", help="trees of each class, however many")
    options = parser.parse_args()
    if options.own:
        trees._MOST_OWN = sys.maxsize
    sizes = [tuple(map(int, size.split("x"))) for size in options.sizes.split(",")]
    if len(sizes) == 1:
        show([measure(*sizes[0], options.inputs)], options.json)
        return
    show([in_its_process(*size, options) for size in sizes], options.json)


def in_its_process(classes: int, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """The row of one size."""
    given = [f"--sizes={classes}x{rows}", f"--inputs={options.inputs}", "--json"]
    given += ["--own"] * options.own
    command = [sys.executable, __file__, *given]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return dict(found[0])


def fabricate(classes: int, rows: int, inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs ``(N, inputs)`` and labels ``(N,)``."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, rows)
    components = rng.standard_normal((classes, 32))[labels] + rng.standard_normal((rows, 32))
    price = rng.random(classes)[labels] + 0.05 * rng.standard_normal(rows)
    brand = np.eye(20)[(7 * labels + rng.integers(0, 3, rows)) % 20]
    noise = rng.random((rows, max(0, inputs - 53)))
    made = np.hstack([price[:, None], brand, noise, components / components.std(axis=0)])
    return torch.from_numpy(made).float(), torch.from_numpy(labels)


def measure(classes: int, rows: int, inputs: int) -> dict[str, Any]:
    """Seconds of growing and answering, accuracy on other rows, and the largest leaf."""
    torch.set_num_threads(1)
    given, labels = fabricate(classes, rows + TESTED, inputs)
    grown = trees.BoostedTrees({"columns": given.shape[1]}, classes).eval()
    begin = time.process_time()
    grown.fit({"columns": Source(given[:rows])}, labels[:rows], "multiclass")
    seconds = time.process_time() - begin
    batches = given[rows:].split(BATCH)
    answers = [grown({"columns": Source(batch)}) for batch in batches]
    with torch.profiler.profile(profile_memory=True) as profile:
        grown({"columns": Source(batches[0])})
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in profile.events())
    right = torch.cat(answers).argmax(dim=1) == labels[rows:]
    return {
        "classes": classes,
        "rows": rows,
        "grow_s": round(seconds, 1),
        "accuracy": round(100 * float(right.float().mean()), 1),
        "largest_leaf": round(float(grown.leaves.abs().max()), 3),
        "allocated_mb_of_a_batch": round(allocated / 1e6, 1),
        "process_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


if __name__ == "__main__":
    main()
