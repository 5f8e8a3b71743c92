"""A training loader that goes on after a restart with the very batch that would have been next."""

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from epic_pl.data.loading.prefetch import prefetched
from epic_pl.data.loading.sampler import TrainSampler
from epic_pl.errors import ConfigError

# glibc's M_MMAP_THRESHOLD, at the largest value that it takes, and M_TRIM_THRESHOLD; bytes
_MALLOC_OPTIONS = ((-3, 32 << 20), (-1, 128 << 20))


def init_worker(worker_id: int) -> None:
    """Keep a loader worker to one thread: the workers themselves are the parallelism."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let this process reuse the memory of pictures instead of handing it back after each one.

    glibc returns blocks of this size to the system at once; having them mapped and zeroed again for
    every picture takes a fifth of a worker's time. Other C libraries are left as they are.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        for option, size in _MALLOC_OPTIONS:
            libc.mallopt(option, size)


class ResumableDataLoader(DataLoader[Any]):
    """A DataLoader whose position is saved with the checkpoint.

    Lightning calls :meth:`state_dict` and :meth:`load_state_dict`. A position is an epoch and the
    number of its batches that were trained on. Batches that are loaded ahead do not count, nor
    does one whose step failed.

    The iterator does nothing before its first batch is asked for, since Lightning creates it before
    it sets the sampler's epoch. Workers live for one epoch, so that they see the dataset's
    ``set_epoch``. Worker seeds come from (seed, epoch), never from torch's global random state.

    Args:
        *args: as for :class:`~torch.utils.data.DataLoader`.
        **kwargs: as for :class:`~torch.utils.data.DataLoader`. With a ``sampler`` other than
            :class:`~epic_pl.data.loading.sampler.TrainSampler` a restart repeats the epoch.
        prefetch: batches that a thread of this process loads ahead, without workers; for datasets
            that do not draw from the global random states.
        processed: gives the batches of this epoch that the training loop has finished, see
            :func:`processed_batches`; None counts every batch that was handed out.

    Raises:
        ConfigError: with ``persistent_workers``, which would keep the first epoch's dataset; with
            both ``prefetch`` and workers.
    """

    def __init__(
        self,
        *args: Any,
        prefetch: int = 0,
        processed: Callable[[], int] | None = None,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("persistent_workers"):
            raise ConfigError(
                "ResumableDataLoader needs persistent_workers=False: workers that outlive an epoch "
                "do not see the dataset's set_epoch. Leave the option out."
            )
        kwargs["worker_init_fn"] = kwargs.get("worker_init_fn") or init_worker
        kwargs["generator"] = kwargs.get("generator") or torch.Generator()
        super().__init__(*args, **kwargs)
        if prefetch and self.num_workers:
            raise ConfigError(
                f"prefetch is {prefetch} and num_workers {self.num_workers}: workers load ahead by "
                "themselves. Leave one of the two out."
            )
        self.prefetch = prefetch
        self.processed = processed
        self._at = (0, 0)  # epoch, and the batches of it that were handed out

    @property
    def _epoch(self) -> int:
        return int(getattr(self.sampler, "epoch", 0))

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # any iterator
        epoch, batches = self._epoch, 0
        if isinstance(self.sampler, TrainSampler):
            batches = self.sampler.start // (self.batch_size or 1)
            self.generator.manual_seed(self.sampler.seed * 1_000_003 + epoch)
        loaded: Any = super().__iter__()
        if self.prefetch:
            loaded = prefetched(loaded, self.prefetch)
        try:
            for batch in loaded:
                batches += 1
                self._at = (epoch, batches)
                yield batch
                del batch  # the next one is put together without this one beside it
        finally:
            if self.prefetch:
                loaded.close()

    def state_dict(self) -> dict[str, int]:
        """Position of the loader: the epoch, and the batches of it that were trained on."""
        epoch, batches = self._at
        if epoch != self._epoch:  # the sampler has moved on to an epoch without a batch yet
            return {"epoch": self._epoch, "batches": 0}
        if self.processed is not None:
            batches = min(batches, self.processed())
        return {"epoch": epoch, "batches": batches}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at a position; one at the end of an epoch is the beginning of the next."""
        epoch, batches = int(state["epoch"]), int(state["batches"])
        if batches >= len(self):
            epoch, batches = epoch + 1, 0
        if isinstance(self.sampler, TrainSampler):
            self.sampler.set_epoch(epoch)
            self.sampler.start = batches * (self.batch_size or 1)
        self._at = (epoch, batches)


def processed_batches(trainer: Trainer) -> int:
    """Batches of this epoch whose training step is finished, optimiser step included."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current  # its type lacks a field
    return int(progress.processed)
