"""Tensors of a batch that stay on disk until they are used.

Shape legend: B batch, b consecutive samples of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor


class LazyTensor(ABC):
    """A tensor ``(B, ...)`` whose numbers are read, for instance from mapped files, when needed.

    Only the CPU can read it in place. :meth:`to` another device and :meth:`pin_memory` return a
    tensor, so loaders and trainers may treat it as one.

    Attributes:
        shape: ``(B, ...)``.
        dtype: of the numbers.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    @abstractmethod
    def __getitem__(self, index: tuple[slice | int, ...]) -> "LazyTensor":
        """The same part of every sample: a full slice, then integers, as in ``[:, k, 0]``."""

    @abstractmethod
    def pieces(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Yield all samples in order, a few at a time, as ``(slice of the batch, (b, ...))``.

        A piece is overwritten when the next one is taken.
        """

    @abstractmethod
    def whole(self) -> Tensor:
        """The whole tensor."""

    def to(self, device: torch.device | str) -> "LazyTensor | Tensor":
        """Itself on the CPU, a tensor on other devices."""
        device = torch.device(device)
        return self if device.type == "cpu" else self.whole().to(device)

    def pin_memory(self, device: torch.device | str | None = None) -> Tensor:
        """A tensor in page-locked memory."""
        return self.whole().pin_memory()


def whole(tensor: Tensor | LazyTensor) -> Tensor:
    """The tensor itself, or the whole of a lazy one."""
    return tensor if isinstance(tensor, Tensor) else tensor.whole()
