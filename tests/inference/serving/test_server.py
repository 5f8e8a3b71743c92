"""The real server in a process of its own, over HTTP."""

import contextlib
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

pytestmark = pytest.mark.slow
_KEY = {"X-API-Key": "a secret"}


def _wait_until(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@contextlib.contextmanager
def _serving(root, *options, start=("-m", "epic_pl")):
    """`epic-pl serve` on the run below ``root``, once it answers."""
    port = _free_port()
    command = [sys.executable, *start, "serve", str(root / "runs"), "--port", port]
    environment = os.environ | {"EPIC_PL_API_KEY": _KEY["X-API-Key"], "OMP_NUM_THREADS": "1"}
    log = (root / f"server_{port}.log").open("w+")
    process = subprocess.Popen(
        [*command, *options], stdout=log, stderr=log, env=environment, start_new_session=True
    )
    address = f"http://127.0.0.1:{port}"

    def said():
        return Path(log.name).read_text()

    def answers():
        assert process.poll() is None, said()
        try:
            return client.get("/health").status_code == 200
        except httpx.TransportError:
            return False

    try:
        with httpx.Client(base_url=address, headers=_KEY, timeout=60) as client:
            _wait_until(answers)
            yield SimpleNamespace(client=client, process=process, said=said, port=int(port))
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def server(two_epochs):
    with _serving(two_epochs.root, "--max-characters", "500", "--max-megabytes", "1") as server:
        yield server


def test_what_libraries_say_of_a_request_is_no_line_without_a_time(server):
    before, form = server.said(), {"Content-Type": "multipart/form-data; boundary=x"}
    refused = [server.client.post("/classify-form", content=b"--y", headers=form)]
    bomb = b"\x89PNG\r\n\x1a\n"  # of 10,000 x 10,000 pixels
    for chunk in (b"IHDR" + struct.pack(">2I5B", 10_000, 10_000, 8, 2, 0, 0, 0), b"IDAT"):
        check = struct.pack(">I", zlib.crc32(chunk))
        bomb += struct.pack(">I", len(chunk) - 4) + chunk + check
    refused.append(server.client.post("/classify-form", files={"image": bomb}))
    assert [response.status_code for response in refused] == [400, 422]
    assert "too large" in refused[1].json()["detail"]
    (line,) = server.said().removeprefix(before).splitlines()
    assert re.fullmatch(r"20\d\d-\S+ \S+ python_multipart\S+: Expected boundary .*", line)


def test_sigterm_to_the_group_answers_all_open_requests(server):
    body = b'{"text": "a", "top_k": 1}'
    head = f"POST /classify HTTP/1.1\r\nHost: a\r\nX-API-Key: {_KEY['X-API-Key']}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    address = "127.0.0.1", server.port

    def refuses():
        try:
            socket.create_connection(address, timeout=10).close()
        except ConnectionRefusedError:
            return True
        return False

    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(address, timeout=30)) for _ in range(20)
        ]
        for client in clients:
            client.sendall(head.encode() + body[:1])
        _wait_until(lambda: "waiting_requests 20.0" in server.client.get("/metrics").text)
        os.killpg(server.process.pid, signal.SIGTERM)
        _wait_until(refuses)
        for client in clients:
            client.sendall(body[1:])
        answers = [client.makefile("rb").read() for client in clients]
    assert [answer.partition(b"\r\n")[0] for answer in answers] == [b"HTTP/1.1 200 OK"] * 20
    assert server.process.wait(60) == 0
    assert "Traceback" not in server.said()


_STUCK = """
import threading
from epic_pl.cli.main import main
from epic_pl.inference.item_classifier import ItemClassifier

def stuck(self, item, max_pixels):
    return threading.Event().wait() if item["image"] else prepare(self, item, max_pixels)

prepare, ItemClassifier.prepare = ItemClassifier.prepare, stuck
main()
"""


def test_sigterm_ends_a_server_whose_threads_are_stuck_in_images(two_epochs):
    options = ("--timeout", "3")
    with (
        _serving(two_epochs.root, *options, start=("-c", _STUCK)) as server,
        ThreadPoolExecutor(5) as pool,
    ):
        upload = {"url": "/classify-form", "files": {"image": b"a"}}
        images = [pool.submit(server.client.post, **upload) for _ in range(5)]
        _wait_until(lambda: "waiting_requests 5.0" in server.client.get("/metrics").text)
        server.process.terminate()
        answer = server.client.post("/classify", json={"text": "a"})
        assert len(answer.json()["labels"]) == 3
        assert [image.result().status_code for image in images] == [504] * 5
        assert server.process.wait(30) == 0


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_signal_ends_an_idle_server_and_frees_its_port(number, code, two_epochs):
    with _serving(two_epochs.root) as server:
        os.kill(server.process.pid, number)
        assert server.process.wait(30) == code
        socket.create_server(("127.0.0.1", server.port)).close()
        with pytest.raises(ProcessLookupError):  # nothing is left of its group
            os.killpg(server.process.pid, 0)
        lines = server.said().splitlines()
    assert [line.split()[0] for line in lines] == ["Loading", "Serving"]


def test_a_server_that_is_told_to_end_while_it_loads_says_nothing(two_epochs):
    command = [sys.executable, "-m", "epic_pl", "serve", str(two_epochs.root / "runs")]
    process = subprocess.Popen(
        [*command, "--port", _free_port()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "Loading runs ...\n"
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGTERM)
    assert said == ""
