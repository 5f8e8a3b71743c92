"""Memory for batches that is used again once nobody holds the last batch any more.

Fresh memory is the most expensive part of a gather: the system hands it out, and clears it, page
by page, which takes several times as long as filling it.
"""

import weakref

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_SMALL = 1 << 16  # words; smaller blocks are recycled by malloc itself
_KEPT = 8

Block = npt.NDArray[np.int64]


class BufferPool:
    """Gives out int64 matrices.

    Args:
        pin_memory: take page-locked memory from torch instead, whose own pool knows when a copy to
            the GPU that still runs has ended.
    """

    def __init__(self, pin_memory: bool = False) -> None:
        self._pin_memory = pin_memory and torch.cuda.is_available()  # as the DataLoader does
        self._free: list[Block] = []

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
        # no lock: a finalizer may run anywhere, and single list operations are atomic
        for block in sorted(list(self._free), key=len):
            if size <= len(block) <= 4 * size:
                for position, free in enumerate(list(self._free)):
                    if free is block:
                        return _pop(self._free, position, size)
        return None


def _pop(free: list[Block], position: int, size: int) -> Block | None:
    try:
        block = free.pop(position)
    except IndexError:  # another thread was faster
        return None
    if len(block) >= size:
        return block
    free.append(block)
    return None


def _give_back(free: list[Block], block: Block) -> None:
    free.append(block)
    if len(free) > _KEPT:
        free.pop(0)
