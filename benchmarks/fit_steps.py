"""Processor time of a training step of `epic-pl fit`: loader, logs and optimiser included.

    OMP_NUM_THREADS=1 python benchmarks/fit_steps.py --config my_data/epic.yaml --cache.level layers

Options are those of `fit`. It prints the median over all steps and the fastest one. Two versions of
the package are compared by turns, each with its `src` as PYTHONPATH.
"""

import json
import statistics
import sys
import time
from itertools import pairwise
from typing import Any

from epic_pl.module import EPICModule
from epic_pl.run.epic_cli import run

starts: list[float] = []


def note(module: EPICModule, batch: Any, batch_idx: int) -> None:
    starts.append(time.process_time())


def main() -> None:
    EPICModule.on_train_batch_start = note  # type: ignore[method-assign]  # of each subclass, too
    run(["fit", "--trainer.enable_progress_bar=false", *sys.argv[1:]])
    steps = [1000 * (end - start) for start, end in pairwise(starts)]
    row = {"median_ms": statistics.median(steps), "fastest_ms": min(steps), "steps": len(steps)}
    print(json.dumps({name: round(value, 2) for name, value in row.items()}))


if __name__ == "__main__":
    main()
