"""`epic-pl serve` up to the server itself."""

import socket
import threading

import pytest

from epic_pl import Classifier, MultiTaskClassifier
from epic_pl.inference import sharing
from epic_pl.inference.serving import server


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    return f"--port={number}"


def test_models_are_loaded_by_name_and_limits_passed_on(trained, told, port, monkeypatch):
    given, loads, load = [], [], MultiTaskClassifier.load

    def noted(*arguments, **options):
        loads.append(threading.get_ident())
        return load(*arguments, **options)

    monkeypatch.setattr(MultiTaskClassifier, "load", noted)
    monkeypatch.setattr(server, "run_server", lambda *arguments: given.append(arguments))
    monkeypatch.setenv("EPIC_PL_API_KEY", "a secret")
    options = ["--max-waiting=3", "--timeout=4", "--max-megabytes=5", "--max-megapixels=6"]
    code, out, _ = told(
        *("serve", "runs", "again=runs", port, *options, "--max-characters=7", "--max-batch=8"),
        "--cors=https://a.example,http://localhost:3000",
    )
    assert code == 0
    ((model, settings, listener, thread),) = given
    listener.close()
    loaded, classifies = loads[0], thread.submit(threading.get_ident).result()
    assert loaded == classifies != threading.get_ident()
    assert list(model.tasks) == ["runs", "again"]
    origins = ("https://a.example", "http://localhost:3000")
    sizes = 5_000_000, 6_000_000, 7
    assert settings == server.Settings(3, 4, *sizes, origins, batch=8, key="a secret")
    assert "Serving runs, again with an API key: http://127.0.0.1:" in out


@pytest.mark.parametrize(
    ("options", "key", "hosts"),
    [
        ([], "", ("localhost", "127.0.0.1")),
        (["--cors=https://a.example:8443"], "", ("localhost", "127.0.0.1", "a.example")),
        (["--cors=*"], "", ("localhost", "127.0.0.1", "*")),
        ([], "a secret", ("*",)),
        (["--host=0.0.0.0"], "", ("*",)),
        (["--host=::"], "", ("*",)),
    ],
)
def test_without_a_key_a_server_of_this_machine_has_its_own_names_alone(
    options, key, hosts, told, port, monkeypatch
):
    given = []
    monkeypatch.setattr(sharing, "find_model", lambda path: path)
    monkeypatch.setattr(Classifier, "load", lambda path: None)
    monkeypatch.setattr(server, "run_server", lambda *arguments: given.append(arguments))
    monkeypatch.setenv("EPIC_PL_API_KEY", key)
    code, _, error = told("serve", "nowhere", port, *options)
    assert code == 0, error
    ((_, settings, listener, _),) = given
    listener.close()
    assert settings.hosts == hosts


def test_two_models_of_one_name_are_refused(told, port):
    code, _, error = told("serve", "x/a", "y/a", port)
    assert code == 1
    assert "x/a and y/a are both called a: give NAME=PATH." in error


def test_a_folder_without_a_model_is_refused_with_what_serve_takes(told, port, tmp_path):
    code, _, error = told("serve", tmp_path, port)
    assert code == 1
    assert f"There is no run or checkpoint at {tmp_path}: give runs/NAME or a checkpoint; " in error
    assert error.rstrip().endswith("embed, serve, app and export also take saved models.")


def test_a_taken_port_is_refused_before_models_are_loaded(told):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, out, error = told("serve", "nowhere", f"--port={taken.getsockname()[1]}")
    assert code == 1
    assert "Choose another --port." in error
    assert "Loading" not in out


@pytest.mark.parametrize("cors", ["a.example", "https://a.example/", "https://a.example,", "null"])
def test_an_origin_that_no_browser_sends_is_refused(cors, told, port):
    code, _, error = told("serve", "nowhere", port, f"--cors={cors}")
    assert code == 1
    assert f"--cors is {cors}: give origins as https://example.org, without a path." in error
