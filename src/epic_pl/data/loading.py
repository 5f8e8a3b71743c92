"""Samplers, which give the order of rows, and a loader whose position a checkpoint stores.

Both samplers derive from :class:`DistributedSampler`, since Lightning replaces any other sampler
in a run of several processes.
"""

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from lightning import Trainer
from torch.utils.data import DataLoader, DistributedSampler

from epic_pl.utils.errors import ConfigError

JOB_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]
"""The signals by which a scheduler ends a job; Windows has only the first."""


class _RankSampler(DistributedSampler[Any]):
    """A DistributedSampler that also works outside of a distributed run, as one process."""

    def __init__(self, dataset: Any, **options: Any) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            options = {"num_replicas": 1, "rank": 0, **options}
        super().__init__(dataset, **options)


class TrainSampler(_RankSampler):
    """A seeded order of rows that is new every epoch, and can be continued within an epoch.

    The order depends on (seed, epoch) only and is the same on all ranks. Each rank takes every
    ``num_replicas``-th row; the first rows are repeated so that all ranks get equally many.

    Attributes:
        start: number of samples of this rank that the next iteration, but no later one, skips,
            because a run used them before it was resumed.

    Args:
        dataset: an object with a length; its method ``set_epoch(epoch)`` is called if it has one,
            as datasets have that draw negatives or augmentations anew every epoch.
        **options: ``seed`` of the order, and ``num_replicas`` and ``rank``, the number of processes
            and that of this one, by default those of torch.distributed.
    """

    start = 0

    def __iter__(self) -> Iterator[int]:
        start, self.start = self.start, 0
        # seed with both numbers; with their sum, seed 0 would repeat the epochs of seed 1
        rng = np.random.default_rng([self.seed, self.epoch])
        rows = np.resize(rng.permutation(len(cast(Any, self.dataset))), self.total_size)
        return map(int, rows[self.rank :: self.num_replicas][start:])

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; a new one starts at its first sample."""
        if epoch != self.epoch:
            self.start = 0
        super().set_epoch(epoch)
        forward = getattr(self.dataset, "set_epoch", None)
        if callable(forward):
            forward(epoch)


class EvalSampler(_RankSampler):
    """Rows ``rank, rank + world, ...`` in order; no row is repeated.

    So ranks may differ by one sample; outputs are merged only at the end of the pass.
    Arguments are those of :class:`TrainSampler`.
    """

    def __init__(self, dataset: Any, **options: Any) -> None:
        super().__init__(dataset, **options)
        self._rows = range(self.rank, len(dataset), self.num_replicas)
        self.num_samples = len(self._rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)


def init_worker(worker_id: int) -> None:
    """Set up a loader worker: one thread, since workers already run in parallel."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    # a job's signal reaches workers, too; the main process saves, and then ends them
    for number in JOB_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class ResumableDataLoader(DataLoader[Any]):
    """A DataLoader whose position is stored in checkpoints.

    Lightning calls :meth:`state_dict` and :meth:`load_state_dict`. A position is an epoch and the
    number of its batches that were trained on. Batches that workers load ahead do not count, nor
    does one whose step failed.

    The iterator does nothing until its first batch is requested, since Lightning creates it before
    it sets the sampler's epoch. Workers live for one epoch, so that they see the dataset's
    ``set_epoch``. Worker seeds depend on (seed, epoch), not on torch's global random state.

    Args:
        *args: positional arguments of :class:`~torch.utils.data.DataLoader`.
        **kwargs: its keyword arguments. With a ``sampler`` other than
            :class:`~epic_pl.data.loading.TrainSampler` a resumed run repeats the epoch.
        processed: function that returns the number of finished batches of this epoch, such as
            :func:`processed_batches`; None counts every batch that the loader yielded.

    Raises:
        ConfigError: if ``persistent_workers`` is set, since workers would keep the first epoch.
    """

    def __init__(
        self, *args: Any, processed: Callable[[], int] | None = None, **kwargs: Any
    ) -> None:
        if kwargs.get("persistent_workers"):
            raise ConfigError("ResumableDataLoader needs persistent_workers=False: leave it out.")
        kwargs["worker_init_fn"] = kwargs.get("worker_init_fn") or init_worker
        kwargs["generator"] = kwargs.get("generator") or torch.Generator()
        super().__init__(*args, **kwargs)
        self.processed = processed
        self._at = (0, 0)  # epoch, and the number of its batches that were yielded

    @property
    def _epoch(self) -> int:
        return int(getattr(self.sampler, "epoch", 0))

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # any iterator
        epoch, batches = self._epoch, 0
        if isinstance(self.sampler, TrainSampler):
            batches = self.sampler.start // (self.batch_size or 1)
            self.generator.manual_seed(self.sampler.seed * 1_000_003 + epoch)
        for batch in super().__iter__():
            batches += 1
            self._at = (epoch, batches)
            yield batch
            del batch  # free its memory before the next one is made

    def state_dict(self) -> dict[str, int]:
        """The position: epoch, number of its batches that were trained on, and their size."""
        epoch, batches = self._at
        if epoch != self._epoch:  # the sampler is at a new epoch, which has no batch yet
            epoch, batches = self._epoch, 0
        elif self.processed is not None:
            batches = min(batches, self.processed())
        return {"epoch": epoch, "batches": batches, **self._shape()}

    def _shape(self) -> dict[str, int]:
        """Batch size and number of ranks, which determine the rows of a batch."""
        ranks = getattr(self.sampler, "num_replicas", 1)
        return {"batch_size": self.batch_size or 1, "ranks": ranks}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at a position; the end of an epoch counts as the beginning of the next.

        Raises:
            ConfigError: if the position is within an epoch, and batch size or number of ranks
                differ, since rows would be left out or repeated.
        """
        epoch, batches = int(state["epoch"]), int(state["batches"])
        if batches >= len(self):
            epoch, batches = epoch + 1, 0
        here = self._shape()
        if batches and not here.items() <= state.items():
            raise ConfigError(
                f"The checkpoint is in the middle of an epoch with {state['ranks']} ranks of "
                f"{state['batch_size']} samples, not {here['ranks']} of {here['batch_size']}: "
                "resume with as many, or start anew with --model.warm_start."
            )
        if isinstance(self.sampler, TrainSampler):
            self.sampler.set_epoch(epoch)
            self.sampler.start = batches * (self.batch_size or 1)
        self._at = (epoch, batches)


def processed_batches(trainer: Trainer) -> int:
    """Number of batches of this epoch whose training and optimiser steps are finished."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current  # its type lacks a field
    return int(progress.processed)
