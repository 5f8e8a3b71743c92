"""The HTTP endpoints of a server."""

import asyncio
import math
import secrets
import time
import uuid
from base64 import b64decode
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import Form, HTTPException, Response, Security, UploadFile
from fastapi.security import APIKeyHeader
from litserve.specs.base import LitSpec
from litserve.utils import LitAPIStatus, ResponseBufferItem, WorkerSetupStatus
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Base64Encoder, BaseModel, ConfigDict, EncodedBytes, Field, PositiveInt

from epic_pl.serving.metrics import Metrics
from epic_pl.serving.worker import Answer, Question

CLASSIFY, CLASSIFY_FORM, METRICS = "/classify", "/classify-form", "/metrics"
_POLL_SECONDS, _RECENT_SECONDS, _HEALTH_SECONDS = 0.5, 1.0, 5.0
_RETRY = {"Retry-After": "1"}
_Key = Annotated[str | None, Security(APIKeyHeader(name="X-API-Key", auto_error=False))]


@dataclass(frozen=True)
class Limits:
    """What a server refuses.

    Attributes:
        waiting: requests that may wait at the same time; further ones get status 503.
        seconds: until a request is given up with status 504.
        payload: bytes of a request; larger ones get status 413.
        pixels: of an image; larger ones get status 422.
        characters: of a text; longer ones get status 422.
    """

    waiting: int = 256
    seconds: float = 30
    payload: int = 10_000_000
    pixels: int = 25_000_000
    characters: int = 20_000


class _ImageEncoder(Base64Encoder):
    """Base64, also with line breaks or as a data URL; all else is an error."""

    @classmethod
    def decode(cls, data: bytes) -> bytes:
        return b64decode(b"".join(data.rpartition(b";base64,")[2].split()), validate=True)


class Pair(BaseModel):
    """An image-text pair; an image or a text that is left out is missing."""

    model_config = ConfigDict(extra="forbid")
    image: Annotated[bytes, EncodedBytes(encoder=_ImageEncoder)] | None = None
    """The image file's content in base64, or a data URL of it."""
    text: str | None = None
    top_k: Annotated[PositiveInt, Field(strict=True)] | None = None
    """Number of labels; by default five, with several labels a pair those that are assigned."""


class PairForm(BaseModel):
    """A :class:`Pair` as a form has it: a file, and numbers as text."""

    model_config = ConfigDict(extra="forbid")
    image: UploadFile | None = None
    text: str | None = None
    top_k: PositiveInt | None = None


class ScoredLabel(BaseModel):
    """A label and its calibrated probability."""

    label: str
    score: float


class Labels(BaseModel):
    """Labels of a pair, best first; of several models by the model's name."""

    labels: list[ScoredLabel] | dict[str, list[ScoredLabel]]


class Endpoints(LitSpec):  # type: ignore[misc]  # litserve has no types
    """Endpoints that put questions into the workers' queue and wait for the answers.

    Args:
        limits: of requests.
        key: that requests must have; None lets everyone in.
    """

    def __init__(self, limits: Limits, key: str | None) -> None:
        super().__init__()
        self.api_path, self.limits, self.key = CLASSIFY, limits, key
        self._answered = -math.inf
        self._asking = asyncio.Lock()
        self.metrics = Metrics(lambda: len(self.response_buffer or ()))
        self.add_endpoint(CLASSIFY, self.classify, ["POST"])
        self.add_endpoint(CLASSIFY_FORM, self.classify_form, ["POST"])
        self.add_endpoint(METRICS, self.read_metrics, ["GET"])

    def __getstate__(self) -> dict[str, Any]:
        # workers take no requests, and metrics cannot be pickled
        return {**super().__getstate__(), "metrics": None}

    async def classify(self, pair: Pair, key: _Key = None) -> Labels:
        """Classify an image-text pair; the image's content is given in base64."""
        return await self._classify(Question(pair.image, pair.text, pair.top_k), key)

    async def classify_form(
        self, pair: Annotated[PairForm, Form(media_type="multipart/form-data")], key: _Key = None
    ) -> Labels:
        """Classify an image-text pair of a form (multipart/form-data)."""
        content = None if pair.image is None else await pair.image.read()
        return await self._classify(Question(content, pair.text, pair.top_k), key)

    async def read_metrics(self) -> Response:
        """Metrics in the format of Prometheus."""
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def is_answered(self) -> bool:
        """Whether a worker has just answered a request, or answers within seconds."""
        recent = time.monotonic() - _RECENT_SECONDS
        async with self._asking:
            if self._answered < recent:
                with suppress(HTTPException):
                    await self._ask(None, _HEALTH_SECONDS)
        return self._answered >= recent

    async def _classify(self, question: Question, key: str | None) -> Labels:
        if self.key and not secrets.compare_digest((key or "").encode(), self.key.encode()):
            raise HTTPException(401, "The header X-API-Key is missing or wrong.")
        characters = len(question.text or "")
        if characters > self.limits.characters:
            limit = self.limits.characters
            raise HTTPException(
                422, f"The text has {characters:,} characters; the limit is {limit:,}. Shorten it."
            )
        # of those in the queue some may have been given up
        if max(len(self.response_buffer), self.request_queue.qsize()) >= self.limits.waiting:
            raise HTTPException(503, "Too many requests are waiting. Try again.", _RETRY)
        answer = await self._ask(question, self.limits.seconds)
        if answer.status != 200:
            raise HTTPException(answer.status, answer.reason)
        self.metrics.batch_size.observe(answer.batch_size)
        return Labels.model_validate({"labels": answer.labels})

    async def _ask(self, question: Question | None, seconds: float) -> Answer:
        """A worker's answer.

        Raises:
            HTTPException: the worker has died or failed, or did not answer in time.
        """
        uid = uuid.uuid4().hex
        item = self.response_buffer[uid] = ResponseBufferItem(asyncio.Event())
        try:
            self.request_queue.put((self.response_queue_id, uid, time.monotonic(), question))
            async with asyncio.timeout(seconds):
                while item.response is None:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(item.event.wait(), _POLL_SECONDS)
                    if item.response is None and self._has_died(item.worker_id):
                        raise HTTPException(503, "The worker has died. Try again.", _RETRY)
        except TimeoutError:
            raise HTTPException(504, f"There was no answer within {seconds:g} seconds.") from None
        finally:
            del self.response_buffer[uid]
        self._answered = time.monotonic()
        answer, status = item.response
        if status == LitAPIStatus.OK:
            return cast(Answer, answer)
        if isinstance(answer, HTTPException):  # it waited too long in the queue
            raise answer
        raise HTTPException(500, "The model failed; the server's log says why.")

    def _has_died(self, worker: int | None) -> bool:
        """Whether the worker that has taken a question does not work on it any more."""
        if worker is None:
            return False
        status = self._server.workers_setup_status[f"{CLASSIFY[1:]}_{worker}"]
        return bool(status != WorkerSetupStatus.READY)
