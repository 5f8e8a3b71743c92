import socket
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
import uvicorn

from epic_pl import Classifier
from epic_pl.inference.serving.server import Limits, build_app
from epic_pl.utils.errors import DataError


@pytest.fixture
def classifier(trained):
    return Classifier.load("runs", device="cpu")


class FakeModel:
    """Answers each text with itself; ``classify`` is called with the texts of a batch."""

    def __init__(self, classify=lambda texts: None):
        self.classify, self.batches = classify, []

    def prepare(self, item, max_pixels):
        if item["text"] is None and item["image"] is None:
            raise DataError("neither image nor text")
        return item

    def sample_probabilities(self, samples):
        texts = [sample["text"] or "" for sample in samples]
        self.batches.append(texts)
        self.classify(texts)
        return texts

    def labels(self, scores, top_k):
        return [[{"label": text, "score": 0.5}] * (top_k or 1) for text in scores]


@pytest.fixture
def fake_model():
    return FakeModel


@pytest.fixture
def started():
    """Starts a server of a model on a port of loopback, in a thread; gives a client."""

    @contextmanager
    def started(model, key=None, max_batch=4, **limits):
        failures = []
        app = build_app(model, Limits(**limits), max_batch, key, failures.append)
        server = uvicorn.Server(uvicorn.Config(app, http="httptools", log_level="error"))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = f"http://127.0.0.1:{listener.getsockname()[1]}"
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            try:
                end = time.monotonic() + 10
                while not server.started:
                    assert time.monotonic() < end
                    time.sleep(0.01)
                with httpx.Client(base_url=address, timeout=20) as client:
                    client.failures = failures
                    yield client
            finally:
                server.should_exit = True
                thread.join(20)
        assert not thread.is_alive()

    return started
