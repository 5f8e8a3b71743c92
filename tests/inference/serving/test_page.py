"""The page: what it shows, and what it refuses to open."""

import json
import os
import re
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from uuid import uuid4

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from epic_pl import Classifier
from epic_pl.inference.serving.page import (
    MAX_BYTES,
    MAX_CHARACTERS,
    answer,
    build_page,
    open_page,
    uploaded_file,
)
from epic_pl.utils.errors import ConfigError, DataError

TEXT = "a blue square"
PAIR = ("Image and text", "Image alone", "Text alone")


@pytest.fixture
def square(tmp_path):
    Image.new("RGB", (50, 40), "blue").save(tmp_path / "square.png")
    return tmp_path / "square.png"


@pytest.fixture
def photo(tmp_path):
    """A JPEG that is large enough to be decoded at a part of its size."""
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


@pytest.fixture
def like(classifier, make):
    """Builds an untrained classifier that prepares its inputs like the trained one."""
    preprocessing = classifier.module.hparams["preprocessing"]
    names = [f"<i>{number}" for number in range(7)]

    def like(method, **options):
        module = make(
            method=method,
            num_classes=len(names),
            class_names=names,
            preprocessing=preprocessing,
            **options,
        )
        return Classifier(module, "cpu")

    return like


def scores(classifier, **item):
    """What the classifier gives for an item, as the page shows it."""
    return {label["label"]: label["score"] for label in classifier(**item)}


def test_labels_are_exactly_those_of_the_classifier(classifier, photo):
    found = answer(classifier, photo, f"  {TEXT}\n")
    assert found.labels == {
        "Image and text": scores(classifier, image=photo, text=TEXT),
        "Image alone": scores(classifier, image=photo),
        "Text alone": scores(classifier, text=TEXT),
    }
    assert found.notes == [
        "No training sample lacked its image or its text, so labels without it are untrained."
    ]


@pytest.mark.parametrize(("image", "text", "title"), [(True, " ", PAIR[1]), (False, TEXT, PAIR[2])])
def test_one_modality_is_classified_alone(image, text, title, classifier, square):
    found = answer(classifier, square if image else None, text)
    assert list(found.labels) == [title]
    assert "data:image/svg+xml" in found.attention


@pytest.mark.parametrize("method", ["NoInteraction", "LinearProbe", "Parts", "Ensemble"])
def test_attention_is_drawn_for_models_with_prompts(method, like, square):
    found = answer(like(method), square, TEXT)
    drawn = method == "NoInteraction"
    assert bool(found.attention) == drawn
    assert ("No prompts' attention can be drawn for this model." in found.notes) != drawn


def test_labels_that_reach_their_thresholds_are_marked_and_none_is_left_out(like, square):
    classifier = like("NoPrompts", task="multilabel")
    scores = classifier.probabilities([{"image": square}])[0]
    thresholds = np.full(len(scores), 0.99, np.float32)
    last = int(scores.argmin())  # below the five that are always shown
    thresholds[last] = scores[last]
    classifier.module.postprocessor.thresholds.copy_(torch.from_numpy(thresholds))
    found = answer(classifier, square, None)
    shown = [*found.labels["Image alone"]]
    assert len(shown) == 6
    assert [name for name in shown if "✓" in name] == [f"✓ <i>{last}"]
    assert any("✓ marks labels" in note for note in found.notes)


def test_a_text_that_is_cut_is_noted(classifier):
    read = classifier.processor.max_text_tokens
    found = answer(classifier, None, "blue " * 200)
    assert f"The text has 202 tokens; the model reads the first {read}." in found.notes


@pytest.mark.parametrize(
    ("content", "text", "says"),
    [
        (None, "  ", "neither an image nor a text"),
        (b"", TEXT, "cannot be read"),
        (b"private words", None, "cannot be read"),
        ("cut", TEXT, "upload a whole file in one of JPEG, PNG"),
        ("huge", TEXT, "at most 64,000,000 pixels"),
        (None, "a" * (MAX_CHARACTERS + 1), "has 10,001 characters; the limit is 10,000"),
        (None, "\ud800", "half of a character"),
    ],
)
def test_what_cannot_be_used_is_an_error_without_content_or_path(
    content, text, says, classifier, square, tmp_path
):
    file = None if content is None else tmp_path / "upload.png"
    if content == "huge":
        Image.new("1", (9000, 9000)).save(file)
    elif file:
        file.write_bytes(square.read_bytes()[:60] if content == "cut" else content)
    with pytest.raises(DataError, match=says) as caught:
        answer(classifier, file, text)
    assert "private" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_an_exported_model_gives_labels_alone(classifier, square, monkeypatch):
    def no_module(self):
        raise ConfigError("/secret/exported is an exported model: load the run.")

    monkeypatch.setattr(Classifier, "module", property(no_module))
    monkeypatch.setattr(Classifier, "never_missing", ["image"])
    found = answer(classifier, square, TEXT)
    assert {*found.labels} == {*PAIR}
    assert not found.attention
    assert found.notes == [
        "No training sample lacked its image, so labels without it are untrained.",
        "No prompts' attention can be drawn for this model.",
    ]


def test_only_small_regular_files_below_the_upload_folder_are_opened(tmp_path):
    folder = tmp_path / "uploads"
    (folder / "abc").mkdir(parents=True)
    image, secret = folder / "abc" / "image.png", tmp_path / "secret.png"
    for file in (image, secret):
        file.write_bytes(b"0")
    with (folder / "large.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    (folder / "link.png").symlink_to(secret)
    (folder / "circle").symlink_to(folder / "circle")
    os.mkfifo(folder / "pipe.png")
    assert uploaded_file(None, folder) is None
    assert uploaded_file({"path": str(image)}, folder) == image.resolve()
    bad = [secret, folder / ".." / "secret.png", "/dev/zero", "large.png", "link.png", "circle"]
    bad += ["pipe.png", "abc", "none.png", "\0", "x" * 5000, "https://example.com/x.png"]
    uploads = [{"path": str(folder / name)} for name in bad]
    for upload in (*uploads, {"path": None}, {"url": "data:image/png;base64,"}, str(image), []):
        with pytest.raises(DataError) as caught:
            uploaded_file(upload, folder)
        assert str(caught.value) == "Upload the image, a file of at most 20 MiB."


# ------------------------------------------------------------------ the launched page


_CLASSIFY = 1  # gradio's number of the function


class Address(str):
    """The address of a page, with the methods and paths of its routes."""

    def __new__(cls, address, routes):
        self = super().__new__(cls, address)
        self.routes = {(next(iter(route.methods)), route.path) for route in routes}
        return self


@pytest.fixture(scope="module")
def uploads(tmp_path_factory):
    """The folder into which gradio puts uploads."""
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def address(two_epochs, uploads):
    """A page on a free port, behind a proxy that is set and unreachable."""
    pytest.importorskip("gradio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(uploads))
        for name in ("HTTP_PROXY", "http_proxy"):
            patch.setenv(name, "http://127.0.0.1:1")
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "")
        page = build_page(Classifier.load(two_epochs.root / "runs", device="cpu"), "squares")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        address = open_page(page, "127.0.0.1", port)
        routes = import_module("fastapi.routing").iter_route_contexts(page.app.routes)
        assert page.fns[_CLASSIFY].api_name == "classify"
        yield Address(address, routes)
        assert not page.share
        assert not page.analytics_enabled
        page.close()


def uploaded(address, file):
    (path,) = httpx.post(f"{address}gradio_api/upload", files={"files": file.open("rb")}).json()
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def asked(address, image, text=""):
    """The last event of a request, as the page makes it; for a refused one its text."""
    session = {"session_hash": uuid4().hex}
    asks = {"data": [image, text], "fn_index": _CLASSIFY, **session}
    started = httpx.post(f"{address}gradio_api/queue/join", json=asks)
    if started.is_error:
        return started.text
    events = httpx.get(f"{address}gradio_api/queue/data", params=session, timeout=20).text
    return next(line[5:] for line in events.splitlines() if '"process_completed"' in line)


def test_the_launched_page_answers_as_the_classifier_does(address, classifier, photo):
    said = json.loads(asked(address, uploaded(address, photo), TEXT))
    *labels, notes, attention = said["output"]["data"]
    here = answer(classifier, photo, TEXT)
    for title, shown in zip(PAIR, labels, strict=True):
        found = {each["label"]: each["confidence"] for each in shown["confidences"]}
        assert found == here.labels[title]
    assert notes == here.notes[0]
    assert "data:image/svg+xml" in attention
    bad = photo.with_name("bad.png")
    bad.write_bytes(b"no image")
    assert "cannot be read: upload a whole file" in asked(address, uploaded(address, bad))
    assert "limit is 10,000" in asked(address, None, "a" * 20_000)


def test_a_text_does_not_wait_for_images(address, square, monkeypatch):
    began, free, prepare = threading.Event(), threading.Event(), Classifier.prepare

    def blocked(self, item):
        if "image" in item:
            began.set()
            assert free.wait(30)
        return prepare(self, item)

    monkeypatch.setattr(Classifier, "prepare", blocked)
    image = uploaded(address, square)
    with ThreadPoolExecutor(2) as pool:
        images = [pool.submit(asked, address, image) for _ in range(2)]
        try:
            assert began.wait(10)
            assert '"success":true' in asked(address, None, TEXT)
            assert not any(image.done() for image in images)
        finally:
            free.set()
        assert ['"success":true' in each.result() for each in images] == [True, True]


def test_only_the_routes_that_the_page_needs_exist(address):
    answered = set()
    for method, path in sorted(address.routes):
        url = address.rstrip("/") + re.sub(r"{.*?}", "a", path)
        with httpx.stream(method, url, json={}) as response:
            if response.status_code != 404:
                answered.add(path)
    # and files below /assets and /static, without which the test in a browser fails
    assert answered == {
        *("/", "/favicon.ico", "/theme.css"),
        *("/gradio_api/app_id", "/gradio_api/file={path_or_url:path}"),
        *("/gradio_api/queue/data", "/gradio_api/queue/join", "/gradio_api/startup-events"),
        *("/gradio_api/upload", "/gradio_api/upload_progress"),
    }
    files = {"file": ("a.webm", b"a", "video/webm")}
    for path in ("process_recording", "run/classify", "call/classify", "api/upload"):
        assert httpx.post(f"{address}gradio_api/{path}", files=files).status_code == 404
    for path in (
        "config",
        "openapi.json",
        "gradio_api/openapi.json",
        "gradio_api/info",
        "docs",
        "monitoring",
    ):
        assert httpx.get(f"{address}{path}").status_code == 404


def test_pages_of_other_names_or_origins_get_no_answer(address):
    port = address.rstrip("/").rpartition(":")[2]
    here, alias = f"127.0.0.1:{port}", f"localhost:{port}"
    rebound, longer = f"evil.example:{port}", f"localhost.evil.example:{port}"
    for name, origin, code in (
        (here, None, 200),
        (here, f"http://{here}", 200),
        (alias, f"http://{alias}", 200),
        (rebound, f"http://{rebound}", 403),
        (longer, None, 403),
        (here, "http://evil.example", 403),
        (here, f"http://{alias}", 403),
        (here, "null", 403),
    ):
        sent = {"Host": name, **({} if origin is None else {"Origin": origin})}
        files = {"files": ("a.png", b"0")}
        upload = httpx.post(f"{address}gradio_api/upload", files=files, headers=sent)
        page = httpx.get(address, headers=sent)
        assert (upload.status_code, page.status_code) == (code, code), sent


def test_an_upload_in_another_codec_is_refused(address):
    kind = {"Content-Type": "multipart/form-data; boundary=x; CHARSET=punycode"}
    part = b'--x\r\nContent-Disposition: form-data; name="text-"\r\n\r\n9ca' + b"a" * 1_200_000
    upload = httpx.post(f"{address}gradio_api/upload", content=part + b"\r\n--x--", headers=kind)
    assert upload.status_code == 404


@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}], ids=["bare", "meta"])
@pytest.mark.parametrize(
    "path",
    [
        *("/etc/passwd", "{secret}", "{uploads}/../{secret.name}", "../secret.png"),
        *("{link}", "/dev/zero", "{pipe}", "{uploads}", "file:///etc/passwd", "file://{secret}"),
        *("http://127.0.0.1:1/x.png", "https://epic-pl.example/x.png"),
    ],
)
def test_a_request_cannot_name_a_file_that_was_not_uploaded(path, meta, address, uploads):
    secret, link, pipe = uploads.parent / "secret.png", uploads / "link.png", uploads / "pipe.png"
    if not link.is_symlink():
        Image.new("RGB", (40, 40), "red").save(secret)
        link.symlink_to(secret)
        os.mkfifo(pipe)
    named = path.format(secret=secret, uploads=uploads, link=link, pipe=pipe)
    said = asked(address, {"path": named, **meta})
    # gradio would ask for an address before it says so
    assert ("addresses are not fetched" if "://" in named else '"success":false') in said
    for content in ("root", "b'", "svg", "secret", str(uploads)):
        assert content not in said
    assert httpx.get(f"{address}gradio_api/file={named}").status_code >= 400


def test_a_large_upload_is_refused(address):
    files = {"files": ("large.png", b"0" * (MAX_BYTES + 1))}
    assert httpx.post(f"{address}gradio_api/upload", files=files).status_code == 413


def test_an_address_that_cannot_be_used_is_named(address, classifier):
    for port in (int(address.rstrip("/").rpartition(":")[2]), 70_000):
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1, port {port}.*--port"):
            open_page(build_page(classifier, "again"), "127.0.0.1", port)


def test_a_missing_extra_is_named(classifier, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ConfigError, match=r"pip install 'epic_pl\[app\]'"):
        build_page(classifier, "squares")
