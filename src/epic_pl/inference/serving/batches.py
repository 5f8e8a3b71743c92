"""Batches of samples from several requests, which one thread classifies."""

import asyncio
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import torch
from prometheus_client import CollectorRegistry, Histogram
from starlette.exceptions import HTTPException

from epic_pl.inference.item_classifier import ItemClassifier
from epic_pl.utils.types import Sample

Model = ItemClassifier[Any, Any]
"""A classifier of one model, or of several."""
RETRY = {"Retry-After": "1"}
_WAIT_SECONDS = 0.005  # time to wait for further samples, unless the last batch had one alone
_SIZES = (1, 2, 4, 8, 16, 32, 64)
_Job = tuple[Sample, int | None, asyncio.Future[Any]]  # a sample, `top_k`, and its labels


class Batches:
    """Collects samples that arrive while a batch is classified, and makes them the next batch.

    Args:
        model: classifier of one model, or of several.
        max_batch: maximum number of samples in a batch.
        registry: registry of the metrics.
        thread: an executor of one thread, in which the model was loaded. Models of all other
            threads would have OpenMP threads of their own, and if there are more of these than
            cores, they sleep at every barrier: on two cores an answer took 1.7 times as long.
    """

    def __init__(
        self, model: Model, max_batch: int, registry: CollectorRegistry, thread: ThreadPoolExecutor
    ) -> None:
        self._model, self._max_batch, self._thread = model, max_batch, thread
        self._sizes = Histogram(
            "epic_pl_batch_size", "Size of a request's batch", buckets=_SIZES, registry=registry
        )
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._busy_since = math.inf
        self._last_size = 1
        self.failed = False

    def work(self, seconds: float) -> bool:
        """Whether :meth:`run` still runs, and no batch takes longer than ``seconds``."""
        return not self.failed and time.monotonic() - self._busy_since < seconds

    async def labels(self, sample: Sample, top_k: int | None) -> Any:
        """Labels of a prepared sample, with several models by task; raises the model's error."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._jobs.put_nowait((sample, top_k, future))
        if self.failed:
            self._refuse_all()
        return await future

    async def run(self) -> None:
        """Classify until this is cancelled.

        Raises:
            Exception: if nothing can be classified any more, as after the loss of a device.
        """
        jobs: list[_Job] = []
        try:
            while True:
                jobs = await self._next_jobs()
                self._busy_since = time.monotonic()
                loop = asyncio.get_running_loop()
                answers = await loop.run_in_executor(self._thread, self._classify, jobs)
                self._busy_since = math.inf
                for (*_, future), answer in zip(jobs, answers, strict=True):
                    self._sizes.observe(len(jobs))
                    if future.done():  # its request has been cancelled
                        continue
                    failed = isinstance(answer, Exception)
                    (future.set_exception if failed else future.set_result)(answer)
        finally:
            self.failed = True
            for job in jobs:
                self._jobs.put_nowait(job)
            self._refuse_all()

    async def _next_jobs(self) -> list[_Job]:
        """The jobs of the next batch, at least one, without cancelled ones."""
        jobs: list[_Job] = []
        while not jobs:
            taken = [await self._jobs.get()]
            with suppress(TimeoutError):
                async with asyncio.timeout(_WAIT_SECONDS if self._last_size > 1 else 0):
                    while len(taken) < self._max_batch:
                        taken.append(await self._jobs.get())
            self._last_size = len(taken)
            jobs = [job for job in taken if not job[-1].done()]
        return jobs

    def _classify(self, jobs: Sequence[_Job]) -> list[Any]:
        """Labels of each sample, or its exception: if a batch fails, each sample is tried alone."""
        try:
            scores = self._model.sample_probabilities([sample for sample, *_ in jobs])
            labels = {top_k: self._model.labels(scores, top_k) for _, top_k, _ in jobs}
            return [labels[top_k][row] for row, (_, top_k, _) in enumerate(jobs)]
        except torch.AcceleratorError:  # the device fails until the process ends
            raise
        except Exception as error:  # each request gets its own answer or error
            if len(jobs) == 1:
                return [error]
            return [answer for job in jobs for answer in self._classify([job])]

    def _refuse_all(self) -> None:
        while not self._jobs.empty():
            *_, future = self._jobs.get_nowait()
            if not future.done():
                reason = "The model cannot be used any more; the server ends. Try again."
                future.set_exception(HTTPException(503, reason, RETRY))
