"""Which rows a rank reads, in which order, and from where it goes on after a restart.

Both samplers derive from :class:`DistributedSampler` because Lightning leaves those alone, where it
would replace any other in a multi-process run.
"""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch.distributed as dist
from torch.utils.data import Dataset, DistributedSampler


class _RankSampler(DistributedSampler[Any]):
    """The base: outside of a distributed run there is one process."""

    def __init__(
        self, dataset: Dataset[Any], num_replicas: int | None, rank: int | None, **kwargs: Any
    ) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            num_replicas, rank = num_replicas or 1, rank or 0
        super().__init__(dataset, num_replicas, rank, **kwargs)


class TrainSampler(_RankSampler):
    """A seeded order, new every epoch, that can be entered in the middle.

    It depends on (seed, epoch) only and is the same on all ranks, each of which takes every
    ``num_replicas``-th row of it; the first rows are repeated so that all ranks get equally many.

    Attributes:
        start: samples of this rank that the next iteration skips, because they were consumed before
            a restart. It holds for one iteration.

    Args:
        dataset: anything with a length; its ``set_epoch(epoch)`` is called too, where it has one
            (datasets that draw negatives or augmentations anew every epoch).
        seed: of the order.
        num_replicas: number of processes, as ``rank`` from torch.distributed by default.
        rank: this process.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        seed: int = 0,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        super().__init__(dataset, num_replicas, rank, seed=seed)
        self.start = 0

    def __iter__(self) -> Iterator[int]:
        start, self.start = self.start, 0
        # both numbers seed the generator: with their sum, seed 0 would repeat seed 1's epochs
        rng = np.random.default_rng([self.seed, self.epoch])
        rows = np.resize(rng.permutation(len(cast(Any, self.dataset))), self.total_size)
        return map(int, rows[self.rank :: self.num_replicas][start:])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; one that differs from the present one starts at its first sample."""
        if epoch != self.epoch:
            self.start = 0
        super().set_epoch(epoch)
        forward = getattr(self.dataset, "set_epoch", None)
        if callable(forward):
            forward(epoch)


class EvalSampler(_RankSampler):
    """Rows ``rank, rank + world, ...`` in order, without the padding that counts samples twice.

    Ranks may differ by one sample, which outputs that are merged at the end of the pass allow.
    Arguments are those of :class:`TrainSampler`.
    """

    def __init__(
        self, dataset: Dataset[Any], *, num_replicas: int | None = None, rank: int | None = None
    ) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=False)
        self._rows = range(self.rank, len(cast(Any, dataset)), self.num_replicas)
        self.num_samples = len(self._rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)
