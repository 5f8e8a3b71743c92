"""Rate of matrix multiplication of this machine, the reference for shares of its peak."""

from collections.abc import Iterable

import torch
from torch.utils.benchmark import Timer

# rows, inner width and columns of each product, a feed-forward layer's among them
_SHAPES = {
    "cpu": ((1024, 1024, 1024), (2048, 2048, 2048), (3072, 768, 3072)),
    "cuda": ((4096, 4096, 4096), (8192, 8192, 8192), (16384, 768, 3072)),
}
_DTYPES = {
    "bf16": torch.bfloat16,
    "16": torch.float16,
    "fp16": torch.float16,
    "32": torch.float32,
    "64": torch.float64,
}


def dtype_of(precision: str) -> torch.dtype | None:
    """The dtype of a trainer's ``precision``, such as bf16-mixed; None for other words."""
    return _DTYPES.get(precision.split("-")[0])


def best_rate(dtypes: Iterable[torch.dtype], threads: int, seconds: float = 0.5) -> float:
    """The best GFLOP/s over precisions, shapes and rounds of ``seconds`` each."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cases = [(dtype, shape) for dtype in dtypes for shape in _SHAPES[device]]
    best = max(_rate(dtype, shape, device, threads, seconds) for dtype, shape in cases)
    if device == "cuda":
        torch.cuda.empty_cache()  # other processes need the memory
    return best


def _rate(
    dtype: torch.dtype, shape: tuple[int, int, int], device: str, threads: int, seconds: float
) -> float:
    rows, width, columns = shape
    factors = {
        "left": torch.randn(rows, width, device=device, dtype=dtype),
        "right": torch.randn(width, columns, device=device, dtype=dtype),
    }
    # without a number of its own the timer takes one thread
    timer = Timer("left @ right", globals=factors, num_threads=threads)
    fastest = min(timer.blocked_autorange(min_run_time=seconds).times)
    return 2 * rows * width * columns / fastest / 1e9
