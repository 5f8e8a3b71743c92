"""What the page shows, without a browser."""

import re
import socket
import sys
from base64 import b64decode

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from epic_pl import Classifier
from epic_pl.errors import ConfigError
from epic_pl.evaluation.explain.samples import explain_sample
from epic_pl.serving.page import MAX_CHARACTERS, answer, build_page, describe, open_page

TEXT = "a blue square"


@pytest.fixture
def square(tmp_path):
    Image.new("RGB", (50, 40), "blue").save(tmp_path / "square.png")
    return tmp_path / "square.png"


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


def test_a_pair_is_classified_together_and_by_each_modality_alone(classifier, square):
    shown = describe(classifier, square, f"  {TEXT}\n")
    for title, given in {
        "Image and text": {"image": square, "text": TEXT},
        "Image alone": {"image": square},
        "Text alone": {"text": TEXT},
    }.items():
        alone = classifier(**given)
        labels = shown.labels.pop(title)
        assert [label["label"] for label in labels] == [label["label"] for label in alone]
        scores = [label["score"] for label in alone]
        assert [label["score"] for label in labels] == pytest.approx(scores, abs=1e-5)
    assert not shown.labels
    (note,) = shown.notes
    assert note == (
        "No training sample lacked its image or its text, so labels without it are untrained."
    )


@pytest.mark.parametrize(("image", "text", "title"), [(True, " ", "Image"), (False, TEXT, "Text")])
def test_one_modality_is_classified_and_nothing_is_compared(image, text, title, classifier, square):
    shown = describe(classifier, square if image else None, text)
    assert list(shown.labels) == [title]
    assert not shown.parts
    assert bool(shown.photo) == image
    assert shown.explanation is not None


def test_cosines_and_words_are_those_of_the_first_exchange(classifier, square):
    shown = describe(classifier, square, TEXT)
    cosines = torch.stack([part for _, part in shown.parts], dim=1)
    tau = classifier.module.model.matcher.log_temperature.exp()
    sample = classifier.prepare({"image": square, "text": TEXT})
    explanation = explain_sample(
        classifier.module, classifier.collator, classifier.image_preprocessing, sample
    )
    torch.testing.assert_close((cosines / tau).softmax(dim=1), explanation.similarities[0])
    # parts of a text are in its order, and the tiny encoder's words count alike
    assert "“a”" in shown.parts[0][0]
    assert "“square”" in shown.parts[-1][0]
    assert "[SEP]" not in answer(classifier, square, TEXT)


@pytest.mark.parametrize(
    ("method", "head", "says"),
    [
        ("parts", {}, "each part of the text with each patch"),
        ("no_prompts", {"similarity": True}, "features of the image and the text"),
        ("linear_probe", {}, "compares nothing"),
        ("pmf", {"similarity": True}, "compares nothing"),
        ("no_interaction", {}, "What the prompts attend to"),
        ("no_interaction", {"similarity": True}, "features of the image and the text"),
    ],
)
def test_each_method_shows_what_it_has(method, head, says, like, square):
    page = answer(like(method, head=head), square, TEXT)
    assert says in page
    assert "alert" not in page
    assert ("not a cause" in page) == (method == "no_interaction")


def test_the_explanation_is_a_figure(classifier, square):
    page = answer(classifier, square, TEXT)
    (figure,) = re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)
    drawn = b64decode(figure).decode()
    assert "attention of each text prompt" in drawn
    assert "similarity before step 1" in drawn


def test_labels_above_their_thresholds_are_marked_and_none_is_left_out(like, square):
    classifier = like("linear_probe", task="multilabel")
    scores = classifier.probabilities([{"image": square}])[0]
    thresholds = np.full(len(scores), 0.99, np.float32)
    last = int(scores.argmin())  # far below the five that are always shown
    thresholds[last] = scores[last]
    classifier.module.postprocessor.thresholds.copy_(torch.from_numpy(thresholds))
    page = answer(classifier, square, None)
    assert page.count("<li") == 6
    assert page.count('class="reached"') == 1
    assert page.count("&lt;i&gt;") == 6
    assert "<i>" not in page


def test_a_text_without_words_is_compared_all_the_same(classifier, square):
    assert "no word above 3%" in answer(classifier, square, "\u200b")


def test_a_text_that_is_cut_is_noted(classifier, square):
    text = "blue " * 200
    read = classifier.collator.max_text_tokens
    shown = describe(classifier, None, text)
    assert f"The text has 202 tokens; the model reads the first {read}." in shown.notes


@pytest.mark.parametrize(
    ("content", "text", "says"),
    [
        (None, "  ", "neither an image nor a text"),
        ("missing", TEXT, "no file on this machine"),
        ("folder", TEXT, "no file on this machine"),
        (b"", TEXT, "the file is empty"),
        (b"<script>alert(1)</script>", None, "none of JPEG"),
        ("cut", TEXT, "cannot be read"),
        ("huge", TEXT, "limit is 64,000,000 pixels"),
        (None, "a" * (MAX_CHARACTERS + 1), "limit is 10,000. Shorten it"),
    ],
)
def test_what_cannot_be_used_is_a_message(content, text, says, classifier, square, tmp_path):
    file = None if content is None else tmp_path / "upload.png"
    if content == "folder":
        file = tmp_path
    elif content == "huge":
        Image.new("1", (9000, 9000)).save(file)
    elif content not in (None, "missing"):
        file.write_bytes(square.read_bytes()[:60] if content == "cut" else content)
    page = answer(classifier, file, text)
    assert 'role="alert"' in page
    assert says in page
    assert "<script" not in page
    assert str(tmp_path) not in page


def test_an_exported_model_gives_labels_alone(classifier, square, monkeypatch):
    def no_module(self):
        raise ConfigError("/secret/exported is an exported model: load the run.")

    monkeypatch.setattr(Classifier, "module", property(no_module))
    monkeypatch.setattr(Classifier, "never_missing", ["image"])
    shown = describe(classifier, square, TEXT)
    assert list(shown.labels) == ["Image and text", "Image alone", "Text alone"]
    assert shown.notes == [
        "No training sample lacked its image, so labels without it are untrained.",
        "An exported model shows labels only.",
    ]
    assert "/secret" not in answer(classifier, square, TEXT)


@pytest.fixture
def proxy(monkeypatch):
    """A proxy that is set, and unreachable."""
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")


def test_the_page_answers_over_http_and_asks_nobody_else(classifier, square, proxy):
    client = pytest.importorskip("gradio_client")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page = build_page(classifier, "squares")
    address = open_page(page, "127.0.0.1", port)
    try:
        remote = client.Client(address, verbose=False)
        found = remote.predict(client.handle_file(square), TEXT, api_name="/classify")
        here = answer(classifier, square, TEXT)
        assert _without_figure(found) == _without_figure(here)
        bad = square.with_name("bad.png")
        bad.write_bytes(b"no image")
        assert "none of JPEG" in remote.predict(client.handle_file(bad), "", api_name="/classify")
        for foreign, says in (
            ("http://127.0.0.1:1/x.png", "no file on this machine"),
            (__file__, "Cannot move"),
        ):
            assert says in _post(address, {"path": foreign, "meta": {"_type": "gradio.FileData"}})
        assert not page.share
        assert not page.analytics_enabled
        for other in (port, 70_000):
            with pytest.raises(ConfigError, match=rf"127\.0\.0\.1, port {other}.*--port"):
                open_page(build_page(classifier, "again"), "127.0.0.1", other)
    finally:
        page.close()


def _without_figure(page):
    """The page without its SVG, whose ids differ."""
    start, _, rest = page.partition("data:image/svg")
    return start + rest.partition('"')[2]


def _post(address, image):
    """The answer to a request that the page itself would not make."""
    url = f"{address}gradio_api/call/classify"
    event = httpx.post(url, json={"data": [image, ""]}).json()["event_id"]
    return httpx.get(f"{url}/{event}").text


def test_a_missing_extra_is_named(classifier, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ConfigError, match=r"pip install 'epic_pl\[app\]'"):
        build_page(classifier, "squares")
