"""Many memory copies at once.

One share of copies for each thread, joined once. Torch's own copy joins its threads after every
single row, and waits for a time slice each time where other processes keep a core busy.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Copy = tuple[npt.NDArray[Any], npt.NDArray[Any] | int]  # destination, source
_WORTH_THREADS = 4_000_000  # bytes


def copy_all(copies: Sequence[Copy]) -> None:
    """Copy each source, an array of the same shape or a number, to its destination."""
    threads = min(torch.get_num_threads(), len(copies))
    if threads < 2 or sum(destination.nbytes for destination, _ in copies) < _WORTH_THREADS:
        _copy(copies)
        return
    pool = _pool(threads - 1, os.getpid())
    others = [pool.submit(_copy, copies[share::threads]) for share in range(1, threads)]
    _copy(copies[::threads])
    for other in others:
        other.result()


def _copy(copies: Sequence[Copy]) -> None:
    for destination, source in copies:
        np.copyto(destination, source)  # without the interpreter's lock


@lru_cache(maxsize=1)
def _pool(threads: int, pid: int) -> ThreadPoolExecutor:
    """Threads do not survive a fork, hence one pool for each process."""
    return ThreadPoolExecutor(threads, f"epic_pl-cache-{pid}")
