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

    Attributes:
        timed_steps: number of steps that were timed.
        timed_samples: number of their samples on this rank.
        timed_seconds: their duration.
        peak_memory_mb: peak memory minus memory at the start, in MB (a million bytes).
    """

    def __init__(self) -> None:
        self.timed_steps = self.timed_samples = 0
        self.timed_seconds = self.peak_memory_mb = 0.0
        self._device, self._ended = torch.device("cpu"), threading.Event()

    @property
    def samples_per_s(self) -> float:
        """Samples per second of this rank; 0 before anything was timed."""
        return self.timed_samples / self.timed_seconds if self.timed_seconds else 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start both measurements: of memory by torch's allocator on a GPU, else by a thread."""
        self._device, self._ended = trainer.strategy.root_device, threading.Event()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._first = torch.cuda.memory_allocated(self._device)
        else:
            threading.Thread(target=self._sample, args=(own_memory(),), daemon=True).start()
        self._start, self._steps = time.perf_counter(), 0

    def _sample(self, first: int) -> None:
        while not self._ended.wait(_SAMPLING_S):
            self.peak_memory_mb = max(self.peak_memory_mb, (own_memory() - first) / 1e6)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Count a step."""
        self._steps += 1
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        if self._steps <= WARMUP_STEPS:
            self._start = now
            return
        self.timed_steps += 1
        self.timed_samples += len(args[2]["attention_mask"])  # the batch
        self.timed_seconds = now - self._start

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """End the measurement of memory."""
        self._ended.set()
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
            self.peak_memory_mb = (peak - self._first) / 1e6

    on_exception = on_train_end  # the thread must not outlive a failed run


def own_memory() -> int:
    """Bytes of anonymous and shared memory of this process; 0 on systems without /proc."""
    if not _STATUS.exists():
        return 0
    lines = _STATUS.read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(_OWN))
