"""Cost of training: samples per second, and growth of memory since the start."""

import threading
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

WARMUP_STEPS = 2  # steps that are not timed
_STATUS = Path("/proc/self/status")
_OWN = ("RssAnon", "RssShmem")
_SAMPLING_S = 0.005


class CostMeter(Callback):
    """Measures the throughput and peak memory of a fit.

    The rate covers the whole loop (loading, step, logging) after two steps. CPU memory counts the
    process's anonymous and shared pages, not mapped files. GPU memory is what torch has allocated.
    """

    def __init__(self) -> None:
        self.timed_steps = 0
        self.timed_samples = 0
        self.timed_seconds = 0.0
        self._memory: _PeakMemory | None = None

    @property
    def samples_per_s(self) -> float:
        """Samples per second of this rank; 0 before anything was timed."""
        return self.timed_samples / self.timed_seconds if self.timed_seconds else 0.0

    @property
    def peak_memory_mb(self) -> float:
        """Peak memory minus memory at the start, in MB (a million bytes)."""
        return self._memory.growth / 1e6 if self._memory else 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start both measurements."""
        self._memory = _PeakMemory(trainer.strategy.root_device)
        self._start = time.perf_counter()
        self._steps = 0

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Count a step."""
        self._steps += 1
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize(trainer.strategy.root_device)
        now = time.perf_counter()
        if self._steps <= WARMUP_STEPS:
            self._start = now
            return
        self.timed_steps += 1
        self.timed_samples += len(args[2]["attention_mask"])  # the batch
        self.timed_seconds = now - self._start

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Stop sampling memory."""
        if self._memory is not None:
            self._memory.stop()

    on_exception = on_train_end  # the thread must not outlive a failed run


class _PeakMemory:
    """Peak memory since construction: from torch's allocator on a GPU, else sampled by a thread."""

    def __init__(self, device: torch.device) -> None:
        self._device = device if device.type == "cuda" else None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        if self._device is None:
            self._first = self._peak = own_memory()
            self._thread.start()
        else:
            self._first = torch.cuda.memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)

    def _sample(self) -> None:
        while not self._done.wait(_SAMPLING_S):
            self._peak = max(self._peak, own_memory())

    def stop(self) -> None:
        """Stop sampling."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def growth(self) -> int:
        """Bytes at the peak minus bytes at the start."""
        if self._device is not None:
            self._peak = torch.cuda.max_memory_allocated(self._device)
        return self._peak - self._first


def own_memory() -> int:
    """Bytes of anonymous and shared memory of this process; 0 on systems without /proc."""
    if not _STATUS.exists():
        return 0
    lines = _STATUS.read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(_OWN))
