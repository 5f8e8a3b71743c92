"""The real server in processes of its own, over HTTP."""

import base64
import contextlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from PIL import Image

from epic_pl import Classifier

pytestmark = pytest.mark.slow
_KEY = {"X-API-Key": "a secret"}


def _png(size=8):
    file = io.BytesIO()
    Image.new("RGB", (size, size), "red").save(file, "PNG")
    return file.getvalue()


def _wait_until(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture(scope="module")
def server(two_epochs):
    port = _free_port()
    command = [sys.executable, "-m", "epic_pl", "serve", str(two_epochs.root / "runs")]
    options = ["--port", port, "--max-characters", "500", "--max-megabytes", "1"]
    environment = os.environ | {"EPIC_PL_API_KEY": _KEY["X-API-Key"], "OMP_NUM_THREADS": "1"}
    log = (two_epochs.root / "server.log").open("w+")
    process = subprocess.Popen(
        [*command, *options], stdout=log, stderr=log, env=environment, start_new_session=True
    )
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=_KEY, timeout=60)

    def answers():
        assert process.poll() is None, (two_epochs.root / "server.log").read_text()
        try:
            return client.get("/health").status_code == 200
        except httpx.TransportError:
            return False

    try:
        _wait_until(answers)
        classifier = Classifier.load(two_epochs.root / "runs", device="cpu")
        yield SimpleNamespace(
            client=client, process=process, classifier=classifier, answers=answers, log=log
        )
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "There is no trained model at"), (b"x", "cannot be read as a checkpoint")],
)
def test_a_model_that_cannot_be_loaded_ends_the_command_with_its_error(content, says, tmp_path):
    if content:
        (tmp_path / "model.ckpt").write_bytes(content)
    command = [sys.executable, "-m", "epic_pl", "serve", str(tmp_path / "model.ckpt")]
    ended = subprocess.run(
        [*command, "--port", _free_port()], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 1
    assert says in ended.stderr
    assert "Serving" not in ended.stdout
    assert "Traceback" not in ended.stderr


def test_the_address_is_told_once_the_models_are_loaded(server):
    said = Path(server.log.name).read_text()
    address = f"Serving runs with an API key: {server.client.base_url}/docs"
    assert said.index("Loading runs ...") < said.index(address)


def _labels(response):
    assert response.status_code == 200, response.text
    return response.json()["labels"]


def test_answers_are_those_of_the_classifier(server):
    content = _png()
    pairs = [(content, "a red square"), (content, None), (None, "a red square")] * 4

    def ask(pair):
        image, text = pair
        given = {"image": image and base64.b64encode(image).decode(), "text": text, "top_k": 2}
        return _labels(server.client.post("/classify", json=given))

    with ThreadPoolExecutor(6) as pool:
        answers = [*pool.map(ask, pairs)]
    expected = server.classifier([{"image": i, "text": t} for i, t in pairs], top_k=2)
    for labels, wanted in zip(answers, expected, strict=True):
        assert labels == [
            {"label": label["label"], "score": pytest.approx(label["score"], abs=1e-5)}
            for label in wanted
        ]
    form = server.client.post("/classify-form", files={"image": content}, data={"top_k": 1})
    assert _labels(form) == answers[1][:1]


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        ({"json": {}}, 422, "neither image nor text"),
        ({"json": {"text": "a", "top_k": 0}}, 422, "top_k"),
        ({"json": {"txt": "a"}}, 422, "txt"),
        ({"json": {"text": 3}}, 422, "text"),
        ({"json": {"text": "a" * 501}}, 422, "501 characters"),
        ({"json": {"image": base64.b64encode(b"no image").decode()}}, 422, "none of JPEG"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "JSON"),
        ({"json": {"text": "a"}, "headers": {"X-API-Key": "wrong"}}, 401, "X-API-Key"),
        ({"json": {"image": "A" * 1_100_000}}, 413, "too large"),
    ],
)
def test_bad_requests_get_their_reason(server, request_, status, reason):
    response = server.client.post("/classify", **request_)
    assert response.status_code == status
    assert reason in response.json()["detail"]


def test_pages_of_the_server(server):
    _labels(server.client.post("/classify", json={"text": "a"}))
    metrics = server.client.get("/metrics").text
    assert float(re.search(r'epic_pl_requests_total{status="200"} (\S+)', metrics)[1]) >= 1
    assert "epic_pl_batch_size_count" in metrics
    paths = server.client.get("/openapi.json").json()["paths"]
    assert {"/classify", "/classify-form", "/metrics", "/health"} <= set(paths)


def test_a_dead_worker_is_replaced(server):
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        with contextlib.suppress(OSError):
            is_worker = b"spawn_main" in (folder / "cmdline").read_bytes()
            if is_worker and os.getpgid(pid) == server.process.pid:
                os.kill(pid, signal.SIGKILL)
    _wait_until(lambda: not server.answers())
    _wait_until(server.answers)
    _labels(server.client.post("/classify", json={"text": "a"}))


def test_sigterm_lets_open_requests_finish(server):
    results, started = [], threading.Event()

    def ask():
        with httpx.Client(base_url=server.client.base_url, headers=_KEY, timeout=60) as client:
            started.set()
            while True:
                try:
                    results.append(client.post("/classify", json={"text": "a"}).status_code)
                except httpx.TransportError:
                    return

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    started.wait()
    _wait_until(lambda: len(results) > 8)
    server.process.terminate()
    for client in clients:
        client.join(60)
    assert server.process.wait(60) == 0
    assert set(results) == {200}
