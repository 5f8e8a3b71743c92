"""The worker of a server, without its processes."""

import io
import pickle
import signal

import pytest
from PIL import Image

from epic_pl import Classifier
from epic_pl.errors import ConfigError
from epic_pl.serving.endpoints import Endpoints, Limits
from epic_pl.serving.worker import Question, Worker, name_models


@pytest.fixture
def start(trained, monkeypatch):
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def start(models):
        worker = Worker(models, False, 100, 4, 1, Endpoints(Limits(), None))
        worker = pickle.loads(pickle.dumps(worker))  # as its process gets it
        worker.setup("cpu")
        return worker

    return start


@pytest.fixture
def worker(start):
    return start({"run": "runs"})


def _png(width, height):
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


def test_a_batch_with_bad_questions(worker):
    questions = [
        Question(_png(8, 8), "a pair", 2),
        Question(_png(11, 10), "too large", None),
        None,
        Question(None, "a text", None),
        Question(b"", None, None),
        Question(None, None, None),
        Question(None, "half \ud83c", None),
    ]
    answers = worker.predict(questions)
    assert [answer.status for answer in answers] == [200, 422, 200, 200, 422, 422, 422]
    assert "11 x 10 pixels" in answers[1].reason
    clf = Classifier.load("runs", device="cpu")
    for answer, question in ((answers[0], questions[0]), (answers[3], questions[3])):
        expected = clf(image=question.image, text=question.text, top_k=question.top_k)
        labels = answer.labels
        assert [label["label"] for label in labels] == [label["label"] for label in expected]
        scores = [label["score"] for label in expected]
        assert [label["score"] for label in labels] == pytest.approx(scores, abs=1e-5)
    assert worker.predict(questions[3]).labels[0]["label"] == answers[3].labels[0]["label"]


def test_a_batch_without_a_good_question(worker):
    refused, asked = worker.predict([Question(None, None, None), None])
    assert refused.status == 422
    assert asked.status == 200


@pytest.mark.parametrize("step", ["prepare", "collator"])
def test_an_unforeseen_error_fails_one_request_alone(step, worker, monkeypatch, caplog):
    whole = getattr(worker._model, step)

    def fails(given, *more):
        if "bad" in repr(given):
            raise RuntimeError("unforeseen")
        return whole(given, *more)

    good, bad = Question(None, "a text", None), Question(None, "bad", None)
    expected = worker.predict(good)
    monkeypatch.setattr(worker._model, step, fails)
    answers = worker.predict([good, bad, None, good])
    assert [answer.status for answer in answers] == [200, 500, 200, 200]
    assert answers[0] == answers[3] == expected
    assert "RuntimeError: unforeseen" in caplog.text
    assert "unforeseen" not in answers[1].reason
    assert worker.predict(bad).status == 500


def test_names_of_models(tmp_path):
    assert name_models([str(tmp_path / "a"), "kind=runs/b"]) == {
        "a": str(tmp_path / "a"),
        "kind": "runs/b",
    }
    with pytest.raises(ConfigError, match="NAME=PATH"):
        name_models(["x/a", "y/a"])


def test_several_models_answer_by_name(start):
    answer = start({"kind": "runs", "again": "runs"}).predict(Question(None, "a text", 1))
    assert list(answer.labels) == ["kind", "again"]
    assert answer.labels["kind"] == answer.labels["again"]
