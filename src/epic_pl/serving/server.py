"""A server of trained models: its processes, from start to end."""

import os
import signal
from collections.abc import Mapping

import torch
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from litserve import LitServer
from litserve.utils import WorkerSetupStatus

from epic_pl.serving.endpoints import CLASSIFY, CLASSIFY_FORM, Endpoints, Limits, Pair
from epic_pl.serving.metrics import MeasuredRequests
from epic_pl.serving.worker import Worker

_REASONS = {
    "extra_forbidden": f"unknown; there are {', '.join(Pair.model_fields)}",
    "json_invalid": "no JSON at character {loc[1]}: {ctx[error]}",
    "model_attributes_type": 'give one pair, {{"text": "a"}}, as Content-Type: application/json',
    "value_error": "must be a file in a form (curl -F image=@dish.jpg), in JSON its base64",
}  # by pydantic's name of the error


def build_server(
    models: Mapping[str, str],
    limits: Limits,
    *,
    max_batch: int,
    workers: int,
    programs: bool,
    key: str | None,
) -> LitServer:
    """A server that is not started yet.

    Args:
        models: for each task what :meth:`epic_pl.Classifier.load` takes.
        limits: of requests.
        max_batch: largest number of requests that are classified together.
        workers: processes for each device.
        programs: as for :meth:`epic_pl.Classifier.load`.
        key: that requests must have; None lets everyone in.
    """
    endpoints = Endpoints(limits, key)
    threads = max(1, torch.get_num_threads() // workers)
    measured = {"metrics": endpoints.metrics, "paths": (CLASSIFY, CLASSIFY_FORM)}
    worker = Worker(models, programs, limits.pixels, max_batch, threads, endpoints)
    server = LitServer(
        worker,
        workers_per_device=workers,
        timeout=limits.seconds,
        max_payload_size=limits.payload,
        middlewares=[(MeasuredRequests, measured)],
        restart_workers=True,
    )
    server.app.title = "epic-pl"
    server.app.add_exception_handler(RequestValidationError, refuse)
    server.uvicorn_graceful_timeout = limits.seconds
    return server


def refuse(request: Request, error: Exception) -> JSONResponse:
    """The response to a request whose values are wrong: what is wrong, without repeating them."""
    assert isinstance(error, RequestValidationError)
    problems = []
    for problem in error.errors():
        name = ".".join(part for part in problem["loc"][1:] if isinstance(part, str)) or "body"
        reason = _REASONS.get(problem["type"], "{msg}").format(**problem)
        problems.append(f"{name}: {reason}")
    return JSONResponse({"detail": "; ".join(problems)}, 422)


def run_server(server: LitServer, host: str, port: int, announcement: str) -> None:
    """Run a server until SIGTERM or Ctrl-C, after which open requests are still answered.

    Raises:
        SystemExit: a worker cannot load its models, and has said why.
    """
    process = os.getpid()

    def stop(number: int, frame: object) -> None:
        # inherited by the process that takes requests, which has answered them all by then
        if os.getpid() == process:
            raise KeyboardInterrupt  # what litserve ends on, after that process

    def verify_worker_status() -> None:
        LitServer.verify_worker_status(server)  # waits for the first one
        print(announcement, flush=True)

    server.verify_worker_status = verify_worker_status
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        # one process takes requests, since metrics are of one
        server.run(host, port, num_api_servers=1, log_level="warning", generate_client_file=False)
    except RuntimeError:
        if WorkerSetupStatus.ERROR not in server.workers_setup_status.values():
            raise
        for worker in server.inference_workers:
            worker.terminate()
        raise SystemExit(1) from None
