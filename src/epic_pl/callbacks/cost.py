"""What training costs: samples a second through the trainer, and memory beyond the start's."""

import threading
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

_STATUS = Path("/proc/self/status")
_SAMPLING_S = 0.005


class CostMeter(Callback):
    """Measures a fit from its first batch on: rate, peak memory and what it started from.

    The rate covers all that an epoch does (loading, step, logging), the first ``warmup_steps``
    left out. Memory on the CPU is the process's own (anonymous and shared, sampled every 5 ms);
    pages of files that are mapped, such as a feature store's, are left out: the system takes them
    back when it needs room. On an accelerator it is what torch's allocator held at most.

    Args:
        warmup_steps: steps that are not timed.
        min_steps: stop only after this many timed steps.
        seconds: stop the fit once it was timed for this long; None never stops it.
    """

    def __init__(
        self, warmup_steps: int = 2, min_steps: int = 1, seconds: float | None = None
    ) -> None:
        self.warmup_steps = warmup_steps
        self.min_steps = min_steps
        self.seconds = seconds
        self.timed_steps = 0
        self.timed_samples = 0
        self.timed_seconds = 0.0
        self.fit_seconds = 0.0
        self._memory: _CPUMemory | _DeviceMemory | None = None
        self._fit_start = self._timed_start = 0.0
        self._steps = 0

    @property
    def samples_per_s(self) -> float:
        """Samples of this rank a second; 0 before anything was timed."""
        return self.timed_samples / self.timed_seconds if self.timed_seconds else 0.0

    @property
    def peak_memory_mb(self) -> float:
        """Peak over what was held as training started, in MB of a million bytes."""
        return self._memory.peak_over_start / 1e6 if self._memory else 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the start's memory and begin to watch."""
        device = trainer.strategy.root_device
        self._memory = _DeviceMemory(device) if device.type == "cuda" else _CPUMemory()
        self._memory.start()
        self._fit_start = self._timed_start = time.perf_counter()
        self._steps = 0

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count a step."""
        self._steps += 1
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize(trainer.strategy.root_device)
        now = time.perf_counter()
        if self._steps <= self.warmup_steps:
            self._timed_start = now
            return
        self.timed_steps += 1
        self.timed_samples += len(batch["attention_mask"])
        self.timed_seconds = now - self._timed_start
        if self.seconds is not None and self.timed_steps >= self.min_steps:
            trainer.should_stop = trainer.should_stop or self.timed_seconds >= self.seconds

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop watching."""
        self.fit_seconds = time.perf_counter() - self._fit_start
        if self._memory is not None:
            self._memory.stop()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """The watching thread must not outlive a failed run."""
        if self._memory is not None:
            self._memory.stop()


class _CPUMemory:
    """The process's own memory, sampled by a thread."""

    def __init__(self) -> None:
        self._first = self._peak = own_memory()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def peak_over_start(self) -> int:
        return self._peak - self._first

    def _watch(self) -> None:
        while not self._done.wait(_SAMPLING_S):
            self._peak = max(self._peak, own_memory())


class _DeviceMemory:
    """What torch's allocator holds on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._first = torch.cuda.memory_allocated(device)

    def start(self) -> None:
        torch.cuda.reset_peak_memory_stats(self._device)

    def stop(self) -> None:
        pass

    @property
    def peak_over_start(self) -> int:
        return torch.cuda.max_memory_allocated(self._device) - self._first


def own_memory() -> int:
    """Bytes that this process holds for itself; 0 where the system does not tell."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return 0
    kilobytes = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return 1024 * sum(int(kilobytes.get(name, 0)) for name in ("RssAnon", "RssShmem"))
