"""Memory for batches that is reused, and many copies into it at once."""

import os
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_SMALL = 1 << 16  # words; smaller blocks are recycled by malloc itself
_KEPT = 8
_WORTH_THREADS = 4_000_000  # bytes

Block = npt.NDArray[np.int64]
Copy = tuple[npt.NDArray[Any], npt.NDArray[Any] | int]  # destination, source


class BufferPool:
    """Gives out int64 matrices, and takes them back once their last user is gone.

    Fresh memory is the most expensive part of a gather: the system clears it page by page, which
    takes several times as long as filling it.

    Args:
        pin_memory: take page-locked memory from torch instead, whose own pool knows when a copy to
            the GPU that still runs has ended.
    """

    def __init__(self, pin_memory: bool = False) -> None:
        self._pin_memory = pin_memory and torch.cuda.is_available()  # as the DataLoader does
        self._free: dict[int, Block] = {}

    def take(self, rows: int, words: int) -> Tensor:
        """An uninitialised ``(rows, words)`` tensor; it returns by itself when it is freed."""
        size = rows * words
        if self._pin_memory or size < _SMALL:
            return torch.empty(rows, words, dtype=torch.int64, pin_memory=self._pin_memory)
        block = self._reuse(size)
        if block is None:
            block = np.empty(size + size // 8, np.int64)  # room for a batch of a few more tokens
        view = block[:size]
        weakref.finalize(view, _give_back, self._free, block).atexit = False
        return torch.from_numpy(view).view(rows, words)  # the tensor's storage keeps `view` alive

    def _reuse(self, size: int) -> Block | None:
        # no lock: a finalizer may run anywhere, and single operations on a dictionary are atomic
        for key, block in sorted(list(self._free.items()), key=lambda each: len(each[1])):
            if size <= len(block) <= 4 * size and self._free.pop(key, None) is not None:
                return block
        return None


def _give_back(free: dict[int, Block], block: Block) -> None:
    free[id(block)] = block
    if len(free) > _KEPT:
        free.pop(next(iter(list(free))), None)


def copy_all(copies: Sequence[Copy]) -> None:
    """Copy each source, an array of the same shape or a number, to its destination.

    Each thread gets a share of the copies and is joined once. Torch's own copy joins its threads
    after every row, and waits for a time slice each time where other processes keep a core busy.
    """
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
