"""A field of a batch that is read where it is stored.

Shape legend: B batch, b some samples in a row of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor


class StoredField(ABC):
    """What a tensor ``(B, ...)`` of a batch would hold, left where it is, for instance in files.

    Only the CPU can read it there: :meth:`to` another device, or :meth:`pin_memory`, gives a
    tensor, so that loaders and trainers may treat it as one.

    Attributes:
        shape: ``(B, ...)``.
        dtype: of the numbers.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    @abstractmethod
    def __getitem__(self, index: tuple[slice | int, ...]) -> "StoredField":
        """The same part of every sample: ``[:, k, 0]``, a full slice and then whole numbers."""

    @abstractmethod
    def pieces(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """All samples in order, a few at a time: which they are, and their numbers ``(b, ...)``.

        The numbers are overwritten as soon as the next piece is asked for.
        """

    @abstractmethod
    def whole(self) -> Tensor:
        """All of it as a tensor."""

    def to(self, device: torch.device | str) -> "StoredField | Tensor":
        """Itself for the CPU, which reads it where it is; a tensor for other devices."""
        device = torch.device(device)
        return self if device.type == "cpu" else self.whole().to(device)

    def pin_memory(self, device: torch.device | str | None = None) -> Tensor:
        """As a tensor in page-locked memory."""
        return self.whole().pin_memory()


def whole(field: Tensor | StoredField) -> Tensor:
    """A field as a tensor, whichever it is."""
    return field if isinstance(field, Tensor) else field.whole()
