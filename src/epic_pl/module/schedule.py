"""The learning-rate schedule as a pure function of the step."""

import math


def warmup_cosine(step: int, total_steps: float, warmup_steps: int) -> float:
    """Factor on the base learning rate: linear from near 0 to 1, then a half cosine to 0.

    Args:
        step: optimiser steps taken so far.
        total_steps: of the whole training; infinite keeps the factor at 1 after the warm-up.
        warmup_steps: steps of the linear part.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if math.isinf(total_steps):
        return 1.0
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
