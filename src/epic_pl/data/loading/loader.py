"""A training loader that goes on after a restart with the very batch that would have been next."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from epic_pl.data.loading.prefetch import Prefetcher
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

    Lightning calls :meth:`state_dict` and :meth:`load_state_dict` by itself. A position is an epoch
    and the number of batches handed out in it; those that are loaded ahead don't count.

    The iterator does nothing before its first batch is asked for, since Lightning creates it before
    it tells the sampler the epoch. Workers live for one epoch, so that they see the dataset's
    ``set_epoch``. Worker seeds come from (seed, epoch) and never from torch's global random state,
    which a resumed run restores and which must not depend on how often a loader was started.

    Args:
        *args: as for :class:`~torch.utils.data.DataLoader`.
        **kwargs: as for :class:`~torch.utils.data.DataLoader`. ``sampler`` should be a
            :class:`~epic_pl.data.loading.sampler.TrainSampler`; with any other the loader works,
            but a restart begins the epoch anew.
        prefetch: batches that a thread of this process loads ahead, without workers; for datasets
            that leave the global random states alone, which the training step draws from.

    Raises:
        ConfigError: with ``persistent_workers``, which would keep the first epoch's dataset; with
            ``prefetch`` and workers, which load ahead by themselves.
    """

    def __init__(self, *args: Any, prefetch: int = 0, **kwargs: Any) -> None:
        if kwargs.get("persistent_workers"):
            raise ConfigError(
                "ResumableDataLoader needs persistent_workers=False: workers that outlive an epoch "
                "never hear of the dataset's set_epoch. Leave the option out."
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
        self._at = (0, 0)

    @property
    def _epoch(self) -> int:
        return int(getattr(self.sampler, "epoch", 0))

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # any iterator
        epoch, batches = self._epoch, 0
        if isinstance(self.sampler, TrainSampler):
            batches = self.sampler.start // (self.batch_size or 1)
            self.generator.manual_seed(self.sampler.seed * 1_000_003 + epoch)
        loaded: Iterator[Any] = super().__iter__()
        with self._ahead(loaded) as ready:
            for batch in ready:
                batches += 1
                self._at = (epoch, batches)
                yield batch
                del batch  # the next one is put together without this one beside it

    def _ahead(self, batches: Iterator[Any]) -> contextlib.AbstractContextManager[Iterator[Any]]:
        """The batches, perhaps with a thread that loads some early while the context lasts."""
        if not self.prefetch:
            return contextlib.nullcontext(batches)
        return contextlib.closing(Prefetcher(batches, self.prefetch))

    def state_dict(self) -> dict[str, int]:
        """Position of the loader: the epoch, and the batches of it that were handed out."""
        epoch, batches = self._at
        # the sampler may have moved on to an epoch of which no batch was taken yet
        return {"epoch": self._epoch, "batches": batches if epoch == self._epoch else 0}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at a position; one at the end of an epoch is the beginning of the next."""
        epoch, batches = int(state["epoch"]), int(state["batches"])
        if batches >= len(self):
            epoch, batches = epoch + 1, 0
        if isinstance(self.sampler, TrainSampler):
            self.sampler.set_epoch(epoch)
            self.sampler.start = batches * (self.batch_size or 1)
        self._at = (epoch, batches)
