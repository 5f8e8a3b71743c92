"""Endpoints without a worker, or with one that fails."""

import asyncio
import queue
from types import SimpleNamespace

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.testclient import TestClient
from litserve.utils import LitAPIStatus, WorkerSetupStatus

from epic_pl.serving.endpoints import Endpoints, Limits, Pair
from epic_pl.serving.server import refuse


class _Queue(queue.Queue):
    """A queue whose items a worker takes at once, and answers with ``response``."""

    def __init__(self, endpoints, worker=None, response=None):
        super().__init__()
        self.endpoints, self.worker, self.response = endpoints, worker, response

    def put(self, item):
        waiting = self.endpoints.response_buffer[item[1]]
        waiting.worker_id = self.worker
        if self.response:
            waiting.response = self.response
            waiting.event.set()


def _status(limits, worker=None, response=None, state=WorkerSetupStatus.READY):
    endpoints = Endpoints(limits, None)
    endpoints.response_buffer, endpoints.response_queue_id = {}, 0
    endpoints.request_queue = _Queue(endpoints, worker, response)
    endpoints._server = SimpleNamespace(workers_setup_status={"classify_0": state})
    with pytest.raises(HTTPException) as error:
        asyncio.run(endpoints.classify(Pair(text="a")))
    assert not endpoints.response_buffer  # nothing is left of the request
    return error.value.status_code


@pytest.mark.parametrize(
    ("status", "case"),
    [
        (503, {"limits": Limits(waiting=0)}),
        (504, {"limits": Limits(seconds=0.05)}),
        (503, {"limits": Limits(), "worker": 0, "state": WorkerSetupStatus.STARTING}),
        (500, {"limits": Limits(), "response": (b"pickled", LitAPIStatus.ERROR)}),
        (504, {"limits": Limits(), "response": (HTTPException(504), LitAPIStatus.ERROR)}),
    ],
)
def test_requests_that_no_worker_answers(status, case):
    assert _status(**case) == status


@pytest.mark.parametrize(
    ("path", "request_", "reason"),
    [
        ("/classify", {"json": {"txt": "a"}}, "txt: unknown; there are image, text, top_k"),
        ("/classify", {"json": {"text": "a", "top_k": True}}, "top_k: Input should be a valid int"),
        ("/classify-form", {"data": {"txt": "a"}}, "txt: unknown; there are image, text, top_k"),
        ("/classify-form", {"files": {"img": b"a"}}, "img: unknown; there are image, te"),
        ("/classify-form", {"data": {"text": "a", "topk": "3"}}, "topk: unknown; there are"),
        ("/classify-form", {"data": {"text": "a", "top_k": "true"}}, "top_k: Input should be a va"),
        ("/classify-form", {"data": {"text": "a", "top_k": "2"}}, "Too many requests are waiting"),
        ("/classify-form", {"data": {"image": "a.jpg"}}, "image: must be a file in a form (curl -"),
        ("/classify", {"json": {"image": "@@@"}}, "image: must be a file in a form"),
        ("/classify", {"json": {"image": "aGFsbG8"}}, "image: must be a file in a form"),
        ("/classify", {"content": '{"text": "a"}'}, 'body: give one pair, {"text": "a'),
        (
            "/classify",
            {"content": '{"text": a}', "headers": {"content-type": "application/json"}},
            "body: no JSON at character 9: Expecting value",
        ),
        ("/classify", {"json": [{"text": "a"}]}, "body: give one pair, {"),
    ],
)
def test_what_is_wrong_with_a_request_is_told(path, request_, reason):
    endpoints = Endpoints(Limits(waiting=0), None)
    endpoints.response_buffer, endpoints.request_queue = {}, queue.Queue()
    app = FastAPI()
    app.add_exception_handler(RequestValidationError, refuse)
    app.post("/classify")(endpoints.classify)
    app.post("/classify-form")(endpoints.classify_form)
    response = TestClient(app).post(path, **request_)
    assert response.status_code == (503 if "Too many" in reason else 422)
    assert response.json()["detail"].startswith(reason)
    if "one pair" in reason:
        assert response.json()["detail"].endswith("as Content-Type: application/json")


@pytest.mark.parametrize("image", ["aGFsbG8=", "aGFs\nbG8=\n", "data:image/jpeg;base64,aGFsbG8="])
def test_an_image_may_be_a_data_url_or_have_line_breaks(image):
    assert Pair(image=image).image == b"hallo"
