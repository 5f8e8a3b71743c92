"""The server of trained models: its endpoints, limits, start and end."""

import asyncio
import io
import json
import logging
import os
import re
import secrets
import signal
import socket
import warnings
from base64 import b64decode
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import prometheus_client as prometheus
import uvicorn
from fastapi import APIRouter, FastAPI, Form, Request, Response, Security, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader
from PIL import Image
from pydantic import (
    Base64Encoder,
    BaseModel,
    ConfigDict,
    EncodedBytes,
    Field,
    PositiveInt,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    create_model,
)
from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import Message

from epic_pl.data.processor import Item
from epic_pl.inference.serving.batches import RETRY, Batches, Model
from epic_pl.utils.errors import DataError

_Handler = Callable[[Request], Coroutine[Any, Any, Response]]
_FORM = "multipart/form-data"
_KINDS = (_FORM.encode(), b"application/json")
_CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"ascii")  # ASCII is a part of UTF-8
_HEADER = 1_000  # maximum characters of a Content-Type; boundaries have 70 at most
_THREADS = 4  # number of threads that decode images
_SHOWN, _LONGEST = 3, 120  # problems in an error message, and maximum characters of each
_LAST_SECONDS = 0.25  # time for requests that are on their way when the server is told to end
# requests of the maximum size that are read at a time, and bytes of one that are parsed at a time
_LARGEST, _CHUNK = 16, 2**16


@dataclass(frozen=True)
class Settings:
    """Limits of a server and its key; docs/serve.md lists the HTTP statuses of refused requests."""

    waiting: int = 256  # maximum number of open requests
    seconds: int = 30  # time limit of a request
    payload: int = 10_000_000  # maximum bytes of a request
    pixels: int = 25_000_000  # maximum pixels of an image
    characters: int = 20_000  # maximum characters of a text
    origins: tuple[str, ...] = ()  # origins of the pages that may send requests, all with "*"
    batch: int = 16  # maximum number of requests that are classified together
    key: str | None = None  # what requests must have in the header X-API-Key; None admits all
    hosts: tuple[str, ...] = ("*",)  # names by which clients may call the server, any with "*"


class _ImageEncoder(Base64Encoder):
    """Base64, also with line breaks or as a data URL; anything else is an error."""

    @classmethod
    def decode(cls, data: bytes) -> bytes:
        return b64decode(data.rpartition(b";base64,")[2].translate(None, b" \t\r\n"), validate=True)


class ClassifyRequest(BaseModel):
    """An image-text pair; an image or a text that is not given is missing."""

    model_config = ConfigDict(extra="forbid")
    image: Annotated[bytes, EncodedBytes(encoder=_ImageEncoder)] | None = None
    """The image file's content in base64, or a data URL of it."""
    text: str | None = None
    top_k: Annotated[PositiveInt, Field(strict=True)] | None = None
    """Number of labels; by default five, with several labels a pair those that are assigned."""


class ClassifyForm(BaseModel):
    """A :class:`ClassifyRequest` as a form sends it: a file, and numbers as text."""

    model_config = ConfigDict(extra="forbid")
    image: UploadFile | None = None
    text: str | None = None
    top_k: PositiveInt | None = None


class ScoredLabel(BaseModel):
    """A label and its calibrated probability."""

    label: str
    score: float


class ClassifyResponse(BaseModel):
    """Labels of a pair, the most probable first; with several models by the model's name."""

    labels: list[ScoredLabel] | dict[str, list[ScoredLabel]]


_REASONS = {
    "extra_forbidden": f"unknown; there are {', '.join(ClassifyRequest.model_fields)}, and columns",
    "json_invalid": "no JSON at character {loc[1]}: {ctx[error]}",
    "string_type": 'must be text, in a form without a file name (curl -F text="a")',
    "model_attributes_type": 'give one pair, {{"text": "a"}}, as Content-Type: application/json',
    "value_error": "must be a file in a form (curl -F image=@dish.jpg), in JSON its base64",
}  # keys are pydantic's names of errors


class _Gate:
    """Checks requests before their bodies are read or parsed, and measures them."""

    def __init__(self, settings: Settings, registry: prometheus.CollectorRegistry) -> None:
        self._settings, self._turn = settings, asyncio.Lock()
        self._open = self._bytes = 0  # number of open requests, and bytes of their bodies
        self._requests = prometheus.Counter(
            "epic_pl_requests", "Requests by status", ["status"], registry=registry
        )
        self._seconds = prometheus.Histogram(
            "epic_pl_request_seconds", "Seconds to respond", registry=registry
        )
        waiting = prometheus.Gauge("epic_pl_waiting_requests", "Open requests", registry=registry)
        waiting.set_function(lambda: self._open)

    async def respond(self, request: Request, handle: _Handler) -> Response:
        """Check a request, and let ``handle`` parse and answer it."""
        with self._seconds.time():
            try:
                response = await self._admit(request, handle)
            except HTTPException as error:
                response = JSONResponse({"detail": error.detail}, error.status_code, error.headers)
        self._requests.labels(str(response.status_code)).inc()
        return response

    async def _admit(self, request: Request, handle: _Handler) -> Response:
        settings, key = self._settings, (self._settings.key or "").encode()
        given = dict(request.scope["headers"]).get(b"x-api-key", b"")
        if not secrets.compare_digest(given if key else b"", key):
            raise HTTPException(401, "The header X-API-Key is missing or wrong.")
        origin, host = (request.headers.get(name, "") for name in ("origin", "host"))
        # a browser lets any page send a form; the scheme may be that of a proxy
        if origin and origin.split("://")[-1] != host and not {origin, "*"} & {*settings.origins}:
            raise HTTPException(403, "Pages of this Origin may not send requests: see --cors.")
        busy = HTTPException(503, "Too many requests are waiting. Try again.", RETRY)
        if self._open >= settings.waiting:
            raise busy
        too_large = HTTPException(413, f"The request is larger than {settings.payload:,} bytes.")
        if int(request.headers.get("content-length", 0)) > settings.payload:
            raise too_large
        header = request.headers.get("content-type", "")
        # parsing megabytes of parameters would block other requests
        kind, parameters = parse_options_header(header if len(header) < _HEADER else None)
        # the parser of forms decodes with any codec of Python, and some take quadratic time
        if kind not in _KINDS or parameters.get(b"charset", b"utf-8").lower() not in _CHARSETS:
            raise HTTPException(415, f"Content-Type: send application/json or {_FORM}, in UTF-8.")
        body = bytearray()
        self._open += 1
        try:
            async with asyncio.timeout(settings.seconds):
                async for chunk in request.stream():
                    body += chunk
                    self._bytes += len(chunk)
                    if len(body) > settings.payload:
                        raise too_large
                    if self._bytes > _LARGEST * settings.payload:
                        raise busy
                # many of these characters take long to parse, which would block other requests
                if kind != _KINDS[0] and sum(map(body.count, b",[{")) > settings.characters + 10:
                    raise HTTPException(422, "body: too many values, or too long a text")
                boundary = re.escape(parameters.get(b"boundary", b""))
                # a parser takes seconds for megabytes of blanks after a boundary
                if boundary and re.search(b"--" + boundary + b"[^\r-]", body):
                    raise HTTPException(400, "body: the boundary is not followed by a line break.")
                request.state.body, file = body, io.BytesIO(body)

                async def replay() -> Message:
                    async with self._turn:  # one chunk at a time, and between them other requests
                        await asyncio.sleep(0)
                    chunk = file.read(_CHUNK)
                    return {"type": "http.request", "body": chunk, "more_body": bool(chunk)}

                return await handle(Request(request.scope, replay))
        except TimeoutError:
            raise HTTPException(504, f"No answer within {settings.seconds} seconds.") from None
        except ClientDisconnect:
            raise HTTPException(400, "The client has closed the connection.") from None
        except RequestValidationError as error:
            raise HTTPException(422, _problems(error)) from error
        except HTTPException:
            raise
        except Exception as error:  # logged: the client is told no internals
            logging.getLogger(__name__).exception("A request failed.")
            raise HTTPException(500, "The model failed; the server's log says why.") from error
        finally:
            self._open, self._bytes = self._open - 1, self._bytes - len(body)


def _problems(error: RequestValidationError) -> str:
    """A description of a request's invalid values that does not repeat them."""
    problems = []
    for problem in error.errors()[:_SHOWN]:
        name = ".".join(part for part in problem["loc"][1:] if isinstance(part, str)) or "body"
        reason = _REASONS.get(problem["type"], "{msg}").format(**problem)
        problems.append(f"{name[:_LONGEST]}: {reason[:_LONGEST]}")
    if (more := len(error.errors()) - _SHOWN) > 0:
        problems.append(f"and {more:,} more")
    return "; ".join(problems)


def _check_once(names: Iterable[str]) -> None:
    """Refuse repeated fields of a valid request."""
    if repeated := [name for name, number in Counter(names).items() if number > 1]:
        raise HTTPException(422, f"{repeated[0]}: given more than once")


def build_app(
    model: Model, settings: Settings, end: Callable[[Any], object], thread: ThreadPoolExecutor
) -> FastAPI:
    """Build the application of a server.

    Args:
        model: classifier of one model, or of several.
        settings: limits of requests and the key that they must have.
        end: function that is called with an error after which nothing can be classified.
        thread: the thread in which the model was loaded.
    """
    registry = prometheus.CollectorRegistry()
    gate, batches = _Gate(settings, registry), Batches(model, settings.batch, registry, thread)
    images, texts = ThreadPoolExecutor(_THREADS), ThreadPoolExecutor(_THREADS)
    stuck = set[Future[Any]]()  # what these still prepare for requests that have been given up

    @asynccontextmanager
    async def classifying(app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(batches.run())
        task.add_done_callback(lambda task: task.cancelled() or end(task.exception()))
        yield
        task.cancel()

    class GatedRoute(APIRoute):
        def get_route_handler(self) -> _Handler:
            return partial(gate.respond, handle=super().get_route_handler())

    cell = StrictBool | StrictInt | StrictFloat | StrictStr | None
    # names of columns may be no names of Python
    fields = {f"column_{at}": name for at, name in enumerate(model.columns)}
    sent: Any = {key: (cell, Field(alias=name)) for key, name in fields.items()}
    request_type: Any = create_model("ClassifyRequest", __base__=ClassifyRequest, **sent)
    filled: Any = {key: (cell, Field(None, alias=name)) for key, name in fields.items()}
    form_type: Any = create_model("ClassifyForm", __base__=ClassifyForm, **filled)

    async def labels(image: bytes | None, pair: Any) -> ClassifyResponse:
        text, top_k = pair.text, pair.top_k
        cells: Any = {name: getattr(pair, key) for key, name in fields.items()}
        size = max(len(given) for given in (text or "", *cells.values()) if isinstance(given, str))
        if size > (most := settings.characters):
            raise HTTPException(422, f"The text has {size:,} characters; the limit is {most:,}.")
        threads = images if image else texts  # a text does not wait for images
        job = threads.submit(model.prepare, Item(image=image, text=text, **cells), settings.pixels)
        try:
            sample = await asyncio.wrap_future(job)
        except DataError as error:
            raise HTTPException(422, str(error)) from error
        finally:
            stuck.add(job)
            job.add_done_callback(stuck.discard)
        return ClassifyResponse.model_validate({"labels": await batches.labels(sample, top_k)})

    # the gate checks the key; this only describes it for /docs
    header = Security(APIKeyHeader(name="X-API-Key", auto_error=False))
    router = APIRouter(route_class=GatedRoute, dependencies=[header])

    @router.post("/classify")
    async def classify(request: Request, pair: request_type) -> ClassifyResponse:
        """Classify an image-text pair; the image's content is given in base64."""
        # the parser of JSON takes the last of repeated fields
        _check_once(name for name, _ in json.loads(request.state.body, object_pairs_hook=list))
        return await labels(pair.image, pair)

    @router.post("/classify-form")
    async def classify_form(
        request: Request, pair: Annotated[form_type, Form(media_type=_FORM)]
    ) -> ClassifyResponse:
        """Classify an image-text pair of a form (multipart/form-data)."""
        _check_once(name for name, _ in (await request.form()).multi_items())
        # the parser takes bytes that are not UTF-8 for Latin-1
        if (pair.text or "").encode() not in request.state.body:
            raise HTTPException(422, "text: must be UTF-8")
        content = None if pair.image is None else await pair.image.read()
        return await labels(content, pair)

    app = FastAPI(
        title="epic-pl",
        lifespan=classifying,
        # allow more fields than exist, so that the error can name unknown ones
        form_limits={
            "max_files": 3,
            "max_fields": 10 + len(fields),
            "max_part_size": settings.payload,
        },
    )
    app.include_router(router)
    if settings.origins:
        cors = partial(CORSMiddleware, allow_methods=["GET", "POST"], allow_headers=["X-API-Key"])
        sent = {"expose_headers": [*RETRY], "allow_private_network": True}
        app.add_middleware(cors, allow_origins=settings.origins, **sent)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=settings.hosts, www_redirect=False)

    @app.get("/health")
    async def health() -> Response:
        """Tell whether images are decoded and requests classified."""
        works = batches.work(settings.seconds) and len(stuck) < _THREADS
        return Response("ok" if works else "not ready", 200 if works else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Metrics in the format of Prometheus."""
        text = prometheus.generate_latest(registry)
        return Response(text, media_type=prometheus.CONTENT_TYPE_LATEST)

    return app


class _Server(uvicorn.Server):
    """A server that answers the requests which are on their way when it is told to end.

    Uvicorn closes the connections that it has not accepted or read, so that their requests are
    lost: of clients under load, a third.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let each connection end with its response; close those without a request later."""
        self.server_state.default_headers.append((b"connection", b"close"))
        await asyncio.sleep(_LAST_SECONDS)  # accept the clients that have connected
        for server in self.servers:
            server.close()
        await asyncio.sleep(_LAST_SECONDS)  # read their requests
        await super().shutdown(sockets)


def run_server(
    model: Model, settings: Settings, listener: socket.socket, thread: ThreadPoolExecutor
) -> None:
    """Answer requests until SIGTERM or Ctrl-C, and then those that are still open.

    Arguments are those of :func:`build_app`, and a socket that listens.

    After a signal this ends the process with code 0, also while threads are stuck in an image.

    Raises:
        Exception: if nothing can be classified any more.
    """
    failures: list[Exception] = []

    def end(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")
    # images are limited by settings.pixels
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    app = build_app(model, settings, end, thread)
    # in h11, uvicorn's other parser, a body in chunks of one byte blocks all others for seconds
    options: Any = {"http": "httptools", "ws": "none", "log_level": "warning"}
    server = _Server(uvicorn.Config(app, **options, timeout_graceful_shutdown=settings.seconds))
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises its signal again at the end
        signal.signal(number, lambda *_: os._exit(0))
    server.run(sockets=[listener])
    for error in failures:
        raise error
