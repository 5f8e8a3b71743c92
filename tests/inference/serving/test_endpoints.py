"""The server's endpoints over loopback, with a model that answers each text with itself."""

import base64
import contextlib
import http.client
import itertools
import os
import re
import signal
import socket
import sys
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
from python_multipart.multipart import MultipartParser
from tokenizers.pre_tokenizers import FixedLength

from epic_pl.inference.multitask import MultiTaskClassifier
from epic_pl.inference.serving.server import ClassifyRequest, Settings, run_server
from tolerance import assert_same

ROOT = Path(__file__).parents[3]
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def client(started, fake_model):
    with started(fake_model()) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "request_", "reason"),
    [
        ("/classify", {"json": {"txt": "a"}}, "txt: unknown; there are image, text, top_k"),
        ("/classify", {"json": {"text": "a", "top_k": True}}, "top_k: Input should be a valid int"),
        ("/classify", {"json": {}}, "neither image nor text"),
        ("/classify-form", {"files": {"txt": (None, "a")}}, "txt: unknown; there are image, te"),
        ("/classify-form", {"files": {"img": b"a"}}, "img: unknown; there are image, te"),
        ("/classify-form", {"files": {"topk": (None, "3")}}, "topk: unknown; there are"),
        ("/classify-form", {"files": {"top_k": (None, "true")}}, "top_k: Input should be a va"),
        ("/classify-form", {"files": {"image": (None, "a")}}, "image: must be a file in a form (c"),
        ("/classify-form", {"files": {"text": b"a"}}, "text: must be text, in a form without"),
        ("/classify", {"json": {"text": 1}}, "text: must be text"),
        ("/classify", {"json": {"image": "@@@"}}, "image: must be a file in a form"),
        ("/classify", {"json": {"image": "aGFsbG8"}}, "image: must be a file in a form"),
        ("/classify", {"files": {"text": (None, "a")}}, 'body: give one pair, {"text": "a'),
        (
            "/classify",
            {"content": '{"text": a}', "headers": JSON},
            "body: no JSON at character 9: Expecting value",
        ),
        ("/classify", {"json": [{"text": "a"}]}, "body: give one pair, {"),
        ("/classify", {"json": {"text": "a" * 20_001}}, "The text has 20,001 characters"),
    ],
)
def test_what_is_wrong_with_a_request_is_told(path, request_, reason, client):
    response = client.post(path, **request_)
    assert response.status_code == 422
    assert response.json()["detail"].startswith(reason)
    if "one pair" in reason:
        assert response.json()["detail"].endswith("as Content-Type: application/json")


@pytest.mark.parametrize(
    "request_",
    [
        {"url": "/classify", "json": {"text": "[,{\\" * 5_000}},
        {"url": "/classify-form", "files": {"text": (None, "[,{\\" * 5_000), "image": b","}},
    ],
)
def test_a_text_of_as_many_characters_as_allowed_passes(request_, client):
    response = client.post(**request_)
    assert response.json() == {"labels": [{"label": "[,{\\" * 5_000, "score": 0.5}]}


@pytest.mark.parametrize(
    "image", ["aGFsbG8=", "aGFs\nbG8=\n", "aGFs\r\n bG8=", "data:image/jpeg;base64,aGFsbG8="]
)
def test_an_image_may_be_a_data_url_or_have_line_breaks(image):
    assert ClassifyRequest(image=image).image == b"hallo"


def _form(parts, value=b"", kind="multipart/form-data; boundary=x"):
    """A form; a part is what follows `form-data;` up to an empty line, with headers of its own."""
    head = b"--x\r\nContent-Disposition: form-data; "
    lines = b"".join(head + part + b"\r\n\r\n" + value + b"\r\n" for part in parts)
    return {
        "url": "/classify-form",
        "content": lines + b"--x--\r\n",
        "headers": {"Content-Type": kind},
    }


def _object(size):
    return "{" + ",".join(f'"{n}":1' for n in range(size)) + "}"


def _json(content):
    return {"url": "/classify", "content": content, "headers": JSON}


_REPEATED = "given more than once"
_MANY = "body: too many values, or too long a text"
_FIELDS = "Too many fields. Maximum number of fields is 10."
_PARSING = "There was an error parsing the body"
HOSTILE = {
    "unknown keys": (422, _MANY, lambda: _json(_object(820_000))),
    "allowed keys": (422, "0: unknown; there are image, ", lambda: _json(_object(20_000))),
    "long key": (422, "kkk", lambda: _json('{"%s": 1}' % ("k" * 9_000_000))),
    "list": (422, _MANY, lambda: _json('{"text": [%s1]}' % ("1," * 4_000_000))),
    "nested lists": (422, _MANY, lambda: _json("[" * 9_000_000)),
    "allowed nesting": (400, _PARSING, lambda: _json("[" * 20_000)),
    "number": (400, _PARSING, lambda: _json('{"text": "a", "top_k": %s}' % ("1" * 9_000_000))),
    "infinity": (422, "top_k: ", lambda: _json('{"text": "a", "top_k": Infinity}')),
    "escapes": (422, "The text has 4,5", lambda: _json('{"text": "%s"}' % ("\\n" * 4_500_000))),
    "padding": (422, "image: must be", lambda: _json('{"image": "%s"}' % ("=" * 9_000_000))),
    "not UTF-8": (400, _PARSING, lambda: _json(b'{"text": "\xff"}')),
    "large": (413, "The request is larger than 10,000,000 bytes", lambda: _json(b"a" * 10_000_001)),
    "large chunks": (413, "The request is", lambda: _json(itertools.repeat(b"a" * 10**5, 120))),
    "fields": (400, _FIELDS, lambda: _form(b'name="%d"' % n for n in range(100_000))),
    "files": (400, "Too many files", lambda: _form([b'name="a"; filename="a"'] * 100_000)),
    "headers": (400, "Invalid multipart", lambda: _form([b'name="a"' + b"\r\na: b" * 1_000_000])),
    "two texts": (422, f"text: {_REPEATED}", lambda: _form([b'name="text"'] * 2, b"a")),
    "two numbers": (422, f"top_k: {_REPEATED}", lambda: _form([b'name="top_k"'] * 2, b"1")),
    "two images": (422, f"image: {_REPEATED}", lambda: _form([b'name="image"; filename="a"'] * 2)),
    "two texts in JSON": (422, f"text: {_REPEATED}", lambda: _json('{"text": "a", "text": "a"}')),
    "a number and null": (422, f"top_k: {_REPEATED}", lambda: _json('{"top_k": 1, "top_k": null}')),
    "two spellings": (422, f"text: {_REPEATED}", lambda: _json(r'{"text": "a", "\u0074ext": "b"}')),
    "many texts": (
        422,
        f"text: {_REPEATED}",
        lambda: _json("{" + '"text":"",' * 9_999 + '"text":""}'),
    ),
    "Latin-1": (422, "text: must be UTF-8", lambda: _form([b'name="text"'], b"caf\xe9")),
    "charset of a part": (
        422,
        "text: must be UTF-8",
        lambda: _form([b'name="text"\r\nContent-Type: text/plain; charset=latin-1'], b"caf\xe9"),
    ),
    "blanks after a boundary": (
        400,
        "body: the boundary is not followed by a line break",
        lambda: _form([b'name="text"'], b"a\r\n--x" + b" " * 9_000_000),
    ),
    "_charset_": (422, "_charset_: unknown", lambda: _form([b'name="_charset_"'], b"punycode")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_gets_a_short_reason(name, client):
    status, reason, request = HOSTILE[name]
    response = client.post(**request())
    assert response.status_code == status
    assert response.json()["detail"].startswith(reason)
    assert len(response.content) < 500


FORM, PUNYCODE = "multipart/form-data; boundary=x", b"9ca" + b"a" * 1_200_000


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (f"{FORM}; charset=punycode", 415),
        (f'{FORM}; CHARSET="PunyCode"', 415),
        (f"{FORM}; charset=utf-8; charset=punycode", 415),
        (f"{FORM}; charset=latin-1", 415),
        (f"{FORM}; charset=punycode; charset=UTF-8", 422),
        (f'{FORM}; charset="utf-8"', 422),
        (f"{FORM}; charset=US-ASCII", 422),
        ("application/json; charset=punycode", 415),
        ("application/json; charset=UTF-8", 422),
        ("application/x-www-form-urlencoded", 415),
        (FORM + "; boundary=x" * 50, 422),
        (FORM + "; boundary=x" * 100, 415),  # megabytes of these take a second to parse
        ("text/plain", 415),
        ("", 415),
    ],
)
def test_no_codec_but_utf8_is_admitted(kind, status, client):
    response = client.post(**_form([b'name="text-"'], PUNYCODE, kind))
    assert response.status_code == status
    assert response.json()["detail"].startswith("Content-Type: send") == (status == 415)
    if status == 422 and kind.startswith(FORM):
        text = "pizza" if "ASCII" in kind else "\N{SLICE OF PIZZA}"
        answer = client.post(**_form([b'name="text"'], text.encode(), kind))
        assert answer.json()["labels"][0]["label"] == text


def test_a_form_is_parsed_in_pieces_and_given_up_in_time(started, fake_model, monkeypatch):
    written, write = [], MultipartParser.write

    def slow(parser, data):
        time.sleep(0.3)
        written.append(len(data))
        return write(parser, data)

    monkeypatch.setattr(MultipartParser, "write", slow)
    with started(fake_model(), seconds=0.2) as client:
        files = {"image": b"a" * 500_000}
        assert client.post("/classify-form", files=files).status_code == 504
        assert 0 < sum(written) < 500_000


def test_what_follows_the_last_request_of_a_connection_is_ignored(client):
    with socket.create_connection((client.base_url.host, client.base_url.port), 10) as connection:
        last = b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n"
        connection.sendall(last + b"\r\n{}GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.makefile("rb").read().count(b"HTTP/1.1 ") == 1


def test_floors_of_network_libraries_are_for_requests_of_these_tests():
    floors = {
        "fastapi>=0.165": HOSTILE["fields"],
        "httptools>=0.8": test_what_follows_the_last_request_of_a_connection_is_ignored,
        "prometheus-client>=0.20": "is sent nothing",
        "python-multipart>=0.0.27": HOSTILE["headers"],
        "uvicorn>=0.54": test_no_request_on_its_way_is_lost_when_the_server_ends,
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(project["optional-dependencies"]["serve"]) == sorted(floors)


def test_others_are_answered_beside_hostile_bodies(client):
    bad = _json(_object(820_000))
    with ThreadPoolExecutor(3) as pool:
        hostile = [pool.submit(client.post, **bad) for _ in range(6)]
        good = [client.post("/classify", json={"text": "a"}).status_code for _ in range(20)]
        assert client.get("/health").status_code == 200
    assert good == [200] * 20
    assert [response.result().status_code for response in hostile] == [422] * 6


@pytest.mark.parametrize("key", ["a secret", "geheim \N{KEY}"])
def test_the_key_is_checked_before_the_body_is_read(key, started, fake_model):
    with started(fake_model(), key=key) as client:
        address = client.base_url.host, client.base_url.port
        head = b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n%s\r\n{"
        for header in (b"", b"X-API-Key: wrong\r\n", b"X-API-Key: \xff\r\n"):
            with socket.create_connection(address, timeout=10) as connection:
                connection.sendall(head % header)
                assert connection.recv(100).startswith(b"HTTP/1.1 401 ")
        answer = client.post("/classify", json={"text": "a"}, headers={"X-API-Key": key.encode()})
        assert answer.status_code == 200
        assert client.get("/health").status_code == client.get("/docs").status_code == 200
        schema = client.get("/openapi.json").json()["components"]["securitySchemes"]
        assert schema == {"APIKeyHeader": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}


PAGE = "https://page.example"


def _preflight(client, origin=PAGE):
    # a page of the web asks a server of this machine
    asks = {"Method": "POST", "Headers": "x-api-key,content-type", "Private-Network": "true"}
    headers = {f"Access-Control-Request-{name}": value for name, value in asks.items()}
    return client.options("/classify", headers={"Origin": origin, **headers})


def test_pages_of_other_origins_may_ask_if_they_are_named(held, started):
    key = {"X-API-Key": "a secret"}
    limits = {"seconds": 1, "waiting": 1, "origins": (PAGE, "http://localhost:3000")}
    with started(held, key="a secret", **limits) as client, ThreadPoolExecutor(1) as pool:
        preflight = _preflight(client)
        assert preflight.status_code == 200
        allowed = preflight.headers["Access-Control-Allow-Headers"].lower().split(", ")
        assert {"x-api-key", "content-type"} <= {*allowed}
        assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
        assert preflight.headers["Access-Control-Allow-Private-Network"] == "true"
        assert _preflight(client, "https://other.example").status_code == 400
        client.headers["Origin"] = PAGE
        responses = [client.post("/classify", json={"text": "a"})]
        client.headers.update(key)
        slow = pool.submit(_ask, client, "hold")
        _wait_until(lambda: _metric(client, "epic_pl_waiting_requests") == 1)
        responses += [_ask(client, "a"), slow.result()]
        held.free.set()
        responses += [client.post(**HOSTILE["large"][2]()), _ask(client, 1), _ask(client, "a")]
        responses += [_ask(client, "bad"), client.post("/classify", content="a"), client.get("/")]
        statuses = [401, 503, 504, 413, 422, 200, 500, 415, 404]
        assert [response.status_code for response in responses] == statuses
        origins = {each.headers["Access-Control-Allow-Origin"] for each in (preflight, *responses)}
        assert origins == {PAGE}
        assert responses[1].headers["Access-Control-Expose-Headers"] == "Retry-After"
        client.headers["Origin"] = "https://other.example"
        refused = _ask(client, "a")
        assert refused.status_code == 403
        assert "Access-Control-Allow-Origin" not in refused.headers


ORIGINS = {
    (): [
        (None, "localhost:8000", 200),
        ("http://localhost:8000", "localhost:8000", 200),
        ("https://shop.example", "shop.example", 200),  # of a proxy with TLS
        ("http://localhost:3000", "localhost:8000", 403),
        ("http://evil-localhost:8000", "localhost:8000", 403),
        ("https://shop.example", "127.0.0.1:8000", 403),  # a proxy that rewrites Host
        ("null", "localhost:8000", 403),
    ],
    ("https://shop.example",): [
        ("https://shop.example", "127.0.0.1:8000", 200),
        ("http://shop.example", "127.0.0.1:8000", 403),
        ("null", "localhost:8000", 403),
    ],
    ("*",): [("null", "localhost:8000", 200), (PAGE, "localhost:8000", 200)],
}


@pytest.mark.parametrize("allowed", ORIGINS)
def test_a_form_of_another_origin_is_refused_unread(allowed, started, fake_model):
    model = fake_model()
    with started(model, origins=allowed) as client:
        for origin, host, status in ORIGINS[allowed]:
            headers = {"Host": host} | ({"Origin": origin} if origin else {})
            form = client.post("/classify-form", files={"text": (None, "a")}, headers=headers)
            answer = client.post("/classify", json={"text": "a"}, headers=headers)
            assert form.status_code == answer.status_code == status, (origin, host)
            assert len(model.prepared) == (2 if status == 200 else 0)
            model.prepared.clear()
            if status == 403:
                reason = "Pages of this Origin may not send requests: see --cors."
                assert form.json() == {"detail": reason}
            assert client.get("/health", headers=headers).status_code == 200


def test_a_server_of_this_machine_is_not_called_by_another_name(started, fake_model):
    names = {"localhost:8000": 200, "127.0.0.1": 200, "evil.example:8000": 400, "localhost.x": 400}
    with started(fake_model(), hosts=("localhost", "127.0.0.1")) as client:
        for host, status in names.items():
            given = {"headers": {"Host": host, "Origin": f"http://{host}"}}
            paths = ("/health", "/metrics", "/openapi.json")
            responses = [client.get(path, **given) for path in paths]
            responses.append(client.post("/classify", json={"text": "a"}, **given))
            for response in responses:
                assert response.status_code == status, host
                assert ("Invalid host header" in response.text) == (status == 400)


def test_pages_of_other_origins_may_not_ask_by_default(client):
    answer = client.post("/classify", json={"text": "a"}, headers={"Origin": PAGE})
    for response in (_preflight(client), answer):
        assert not [name for name in response.headers if name.startswith("access-control")]
    assert _preflight(client).status_code == 405


def _wait_until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def _metric(client, name):
    text = client.get("/metrics").text
    return float(found[1]) if (found := re.search(rf"^{name} (\S+)", text, re.M)) else 0.0


@pytest.fixture
def held(fake_model):
    """A model that answers a text `hold` once its event is set, and fails on others."""
    free = threading.Event()

    def classify(texts):
        if "hold" in texts:
            assert free.wait(20)
        if "bad" in texts:
            raise RuntimeError("unforeseen")
        if "lost" in texts:
            raise torch.AcceleratorError("device lost")

    model = fake_model(classify)
    model.free = free
    yield model
    free.set()


def _ask(client, text):
    return client.post("/classify", json={"text": text})


def test_a_request_that_fails_spoils_no_other(held, started, caplog):
    with started(held) as client, ThreadPoolExecutor(4) as pool:
        first = pool.submit(_ask, client, "hold")
        _wait_until(lambda: held.batches)
        batch = [pool.submit(_ask, client, text) for text in ("a", "bad", "b")]
        _wait_until(lambda: _metric(client, "epic_pl_waiting_requests") == 4)
        held.free.set()
        statuses = [request.result().status_code for request in (first, *batch)]
        assert statuses == [200, 200, 500, 200]
        assert batch[0].result().json() == {"labels": [{"label": "a", "score": 0.5}]}
        assert "unforeseen" not in batch[1].result().text
        assert _ask(client, "c").status_code == 200
        assert _metric(client, 'epic_pl_requests_total{status="200"}') == 4
        assert _metric(client, 'epic_pl_requests_total{status="500"}') == 1
    assert "RuntimeError: unforeseen" in caplog.text


def test_a_full_server_refuses_before_it_reads(held, started):
    with started(held, waiting=2) as client, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(_ask, client, "hold") for _ in range(2)]
        _wait_until(lambda: _metric(client, "epic_pl_waiting_requests") == 2)
        refused = _ask(client, "a")
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "1"
        held.free.set()
        assert [request.result().status_code for request in waiting] == [200, 200]
        assert _ask(client, "a").status_code == 200


def test_bodies_are_held_up_to_a_limit(held, started):
    with started(held, payload=1000) as client, ThreadPoolExecutor(16) as pool:
        text = "hold" + " " * 960
        held.classify = lambda texts: held.free.wait(20)
        waiting = [pool.submit(_ask, client, text) for _ in range(16)]
        _wait_until(lambda: len(held.prepared) == 16)  # their bodies have been read
        refused = _ask(client, text)
        held.free.set()
        assert {request.result().status_code for request in waiting} == {200}
        assert refused.status_code == 503
        assert _ask(client, text).status_code == 200


def test_a_request_without_an_answer_is_given_up_and_a_stuck_batch_is_unhealthy(held, started):
    with started(held, seconds=0.2) as client:
        assert _ask(client, "hold").status_code == 504
        _wait_until(lambda: client.get("/health").status_code == 503)
        assert _ask(client, "given up").status_code == 504
        held.free.set()
        _wait_until(lambda: client.get("/health").status_code == 200)
        assert _ask(client, "a").status_code == 200
        assert {*itertools.chain(*held.batches)} == {"hold", "a"}


@pytest.mark.parametrize(("images", "health"), [(3, 200), (5, 503)])
def test_texts_do_not_wait_for_images_that_are_stuck(images, health, held, started):
    prepare = held.prepare

    def blocked(item, max_pixels):
        assert item["image"] is None or held.free.wait(20)
        return prepare(item, max_pixels)

    held.prepare = blocked
    with started(held, seconds=1) as client, ThreadPoolExecutor(5) as pool:
        upload = {"files": {"image": b"a"}}
        stuck = [pool.submit(client.post, "/classify-form", **upload) for _ in range(images)]
        _wait_until(lambda: _metric(client, "epic_pl_waiting_requests") == images)
        assert _ask(client, "a").status_code == client.get("/health").status_code == 200
        assert [request.result().status_code for request in stuck] == [504] * images
        assert client.get("/health").status_code == health
        assert _ask(client, "b").status_code == 200
        held.free.set()
        _wait_until(lambda: client.get("/health").status_code == 200)
        assert client.post("/classify-form", **upload).status_code == 200


def test_a_body_that_does_not_come_is_given_up(started, fake_model):
    with started(fake_model(), seconds=0.2) as client:
        address = client.base_url.host, client.base_url.port
        with socket.create_connection(address, timeout=10) as connection:
            head = b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            connection.sendall(head + b"Content-Length: 9\r\n\r\n{")
            assert connection.recv(100).startswith(b"HTTP/1.1 504 ")
        _wait_until(lambda: _metric(client, "epic_pl_waiting_requests") == 0)


def test_a_lost_device_ends_the_server(held, started):
    with started(held) as client:
        assert _ask(client, "lost").status_code == 503
        assert client.get("/health").status_code == 503
        assert _ask(client, "a").status_code == 503
        assert [type(error) for error in client.failures] == [torch.AcceleratorError]


@pytest.fixture
def run(held, monkeypatch):
    """Runs a server of a model in the main thread; what asks it runs in threads meanwhile."""
    monkeypatch.setattr(os, "_exit", sys.exit)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(ask):
        listener = socket.create_server(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=address, timeout=20) as client:
            asked = pool.submit(ask, client)
            try:
                run_server(held, Settings(batch=4), listener, ThreadPoolExecutor(1))
            finally:
                held.answers = asked.result()

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_lost_device_ends_the_command_with_its_error(run, held):
    with pytest.raises(torch.AcceleratorError, match="device lost"):
        run(lambda client: _ask(client, "lost"))
    assert held.answers.status_code == 503


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_open_requests_finish(number, run, held):
    def ask(client):
        with ThreadPoolExecutor(20) as pool:
            asked = [pool.submit(_ask, client, "hold") for _ in range(20)]
            _wait_until(lambda: _metric(client, "epic_pl_waiting_requests") == 20)
            os.kill(os.getpid(), number)
            _wait_until(lambda: _refuses(client.base_url.host, client.base_url.port))
            held.free.set()
            return [request.result().status_code for request in asked]

    with pytest.raises(SystemExit) as end:
        run(ask)
    assert end.value.code == 0
    assert held.answers == [200] * 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_no_request_on_its_way_is_lost_when_the_server_ends(number, run, held):
    statuses = []

    def keep_asking(host, port, requests):
        """Ask until the server closes its connection or its port, so often per connection."""
        response = None
        while not (response and response.will_close):
            connection = http.client.HTTPConnection(host, port, timeout=20)
            try:
                connection.connect()
            except ConnectionRefusedError:
                return
            with contextlib.closing(connection):
                for _ in range(requests):
                    connection.request("POST", "/classify", '{"text": "a"}', JSON)
                    response = connection.getresponse()
                    response.read()
                    statuses.append(response.status)
                    if response.will_close:
                        break

    def ask(client):
        address = client.base_url.host, client.base_url.port
        with ThreadPoolExecutor(12) as pool:
            asking = [pool.submit(keep_asking, *address, n) for n in (1, 10**9) * 6]
            _wait_until(lambda: len(statuses) > 100)
            os.kill(os.getpid(), number)
            for client in asking:
                client.result()

    held.classify = lambda texts: time.sleep(0.01)
    with pytest.raises(SystemExit):
        run(ask)
    assert {*statuses} == {200}


def _refuses(*address):
    try:
        socket.create_connection(address, timeout=10).close()
    except ConnectionRefusedError:
        return True
    return False


def test_several_models_under_load_answer_each_request(trained, started):
    models = MultiTaskClassifier.load({"kind": "runs", "again": "runs"}, device="cpu")
    files = sorted(trained.root.rglob("*.png"))[:8]
    items = [
        {
            "image": files[n % 8].read_bytes() if n % 3 else None,
            "text": f"a {n} red" if n % 5 else None,
        }
        for n in range(1, 61)
    ]
    items = [item for item in items if item != {"image": None, "text": None}]

    def ask(item):
        image = item["image"] and base64.b64encode(item["image"]).decode()
        return client.post("/classify", json=item | {"image": image, "top_k": 3}).json()["labels"]

    with started(models, batch=8) as client, ThreadPoolExecutor(12) as pool:
        answers = [*pool.map(ask, items)]
        assert _metric(client, 'epic_pl_requests_total{status="200"}') == len(items)
        assert _metric(client, "epic_pl_batch_size_count") == len(items)
        assert _metric(client, "epic_pl_batch_size_sum") > len(items)
    for answer, expected in zip(answers, models(items, top_k=3), strict=True):
        for task, labels in expected.items():
            assert_same(answer[task], labels)


def test_a_tokenizer_that_fails_in_rust_code_fails_its_request_alone(started, classifier):
    tokenizer = classifier.processor.tokenizer.backend_tokenizer
    with started(classifier) as client:
        sound, tokenizer.pre_tokenizer = tokenizer.pre_tokenizer, FixedLength(0)
        assert client.post("/classify", json={"text": "a"}).status_code == 500
        tokenizer.pre_tokenizer = sound
        assert client.post("/classify", json={"text": "a"}).status_code == 200
        assert not client.failures
