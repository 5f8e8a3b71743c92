"""Processor time of a training step of `epic-pl fit`: loader, logs and optimiser included.

    OMP_NUM_THREADS=1 python benchmarks/fit_steps.py --config my_data/epic.yaml --cache.level layers

Options are those of `fit`. It prints the median over all steps and the fastest one. `--flops` also
counts the operations of matrix products in a step, forward and backward, and divides them by those
that this machine makes in a large product of float32: the floor. The share is that of the floor in
the fastest step. Two versions of the package are compared by turns, each with its `src` as
PYTHONPATH.
"""

import json
import statistics
import sys
import time
from itertools import pairwise
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from epic_pl.module import EPICModule
from epic_pl.run.epic_cli import run

COUNTED = 3  # the step whose operations are counted, which takes longer than others
SIDE = 1024
starts: list[float] = []
counter = FlopCounterMode(display=False)


def note(module: EPICModule, batch: Any, batch_idx: int) -> None:
    starts.append(time.process_time())
    if "--flops" in sys.argv and len(starts) == COUNTED:
        counter.__enter__()


def note_end(module: EPICModule, *_: Any) -> None:
    if "--flops" in sys.argv and len(starts) == COUNTED:
        counter.__exit__(None, None, None)


def flops_per_ms() -> float:
    """Operations of a large product in a millisecond of the processor, the best of some."""
    a, b = torch.randn(2, SIDE, SIDE)
    best = float("inf")
    for _ in range(10):
        start = time.process_time()
        a @ b
        best = min(best, 1000 * (time.process_time() - start))
    return float(2 * SIDE**3 / best)


def main() -> None:
    EPICModule.on_train_batch_start = note  # type: ignore[method-assign]  # of each subclass, too
    EPICModule.on_train_batch_end = note_end  # type: ignore[method-assign]
    options = [option for option in sys.argv[1:] if option != "--flops"]
    run(["fit", "--trainer.enable_progress_bar=false", *options])
    steps = [1000 * (end - start) for start, end in pairwise(starts)]
    if "--flops" in sys.argv:
        del steps[COUNTED - 1]
    row = {"median_ms": statistics.median(steps), "fastest_ms": min(steps), "steps": len(steps)}
    if flops := counter.get_total_flops():
        floor = flops / flops_per_ms()
        row |= {"gflop": flops / 1e9, "floor_ms": floor, "share": floor / min(steps)}
    print(json.dumps({name: round(value, 2) for name, value in row.items()}))


if __name__ == "__main__":
    main()
