"""Fixtures of all tests: tiny encoders in the layouts of the real ones, fixed seeds, no network."""

import gc
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub, which reads it once
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import pytest
import torch

import tiny_encoders
import tiny_openmoji
import tiny_runs
from epic_pl.cli.main import main

torch.set_num_threads(1)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Marks what compares floats, for `make test-floats`."""
    code = getattr(getattr(item, "function", None), "__code__", None)
    if code and "assert_same" in code.co_names:
        item.add_marker("floats")


def pytest_collection_finish() -> None:
    """What modules leave behind is no garbage: looking through it takes a tenth of the tests.

    So does looking for garbage after every 700 objects, of which parsers make millions.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True, scope="module")
def _no_garbage():
    """What a module has imported is none either: several hundred parsers and libraries."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _session_cache(tmp_path_factory):
    """Rows and stores of tests stay out of the developer's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPIC_PL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _real_cache_of_fetched_assets(request, monkeypatch):
    if request.node.get_closest_marker("assets"):
        monkeypatch.delenv("EPIC_PL_CACHE")


@pytest.fixture(autouse=True)
def _seeded():
    os.environ.pop("PL_GLOBAL_SEED", None)  # of an earlier test's seed_everything
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - for code under test that draws from it
    torch.manual_seed(0)


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """A folder of the test's own, in which the command line is run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["epic-pl"])  # LightningCLI warns of pytest's own
    return tmp_path


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setenv("EPIC_PL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(cache, workdir):
    """An empty folder within the working folder, with a cache of its own."""
    (workdir / "my data").mkdir()
    return workdir / "my data"


@pytest.fixture
def config(workdir, tiny_vit_dir, tiny_tokenizer_dir):
    """Config of ``data/table.csv``, a tiny table in the working folder."""
    tiny_runs.table(workdir / "data")
    return str(tiny_runs.table_config(workdir / "data", tiny_vit_dir, tiny_tokenizer_dir))


@pytest.fixture
def told(capsys):
    """The command line: exit code, stdout and stderr."""

    def told(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([*map(str, arguments)])
        said = capsys.readouterr()
        return stop.value.code, said.out, said.err

    return told


@pytest.fixture
def tiny(tiny_vit_dir, tiny_tokenizer_dir):
    """Options of a short run on the tiny encoders."""
    return tiny_openmoji.fit_options(tiny_vit_dir, tiny_tokenizer_dir)


@pytest.fixture(scope="session")
def make(tiny_vit_dir, tiny_tokenizer_dir):
    """Builds EPICModule on the tiny encoders; takes what tiny_runs.module takes."""
    return partial(tiny_runs.module, tiny_vit_dir, tiny_tokenizer_dir)


@pytest.fixture(scope="session")
def tiny_tokenizer_dir(tmp_path_factory) -> Path:
    """The text encoder and tokenizer of :func:`tiny_encoders.write_bert`."""
    return tiny_encoders.write_bert(tmp_path_factory.mktemp("tiny_bert"))


@pytest.fixture(scope="session")
def tiny_vit_dir(tmp_path_factory) -> Path:
    """The image encoder of :func:`tiny_encoders.write_vit`."""
    return tiny_encoders.write_vit(tmp_path_factory.mktemp("tiny_vit"))


@pytest.fixture(scope="session")
def two_epochs(tmp_path_factory, tiny_vit_dir, tiny_tokenizer_dir):
    """A run of two epochs; some test rows are special."""
    root = tmp_path_factory.mktemp("trained")
    table = tiny_runs.table(root / "data")
    with tiny_runs.changed_rows(table) as rows:
        test = [row for row in rows if row["split"] == "test"]
        test[1]["image"] = test[2]["text"] = ""
        test[3]["text"] = "<script>alert('$x$')</script> \U0001f355"
    config = str(tiny_runs.table_config(root / "data", tiny_vit_dir, tiny_tokenizer_dir))
    options = ["--model.optim.lr=0.05", "--model.head.network=none"]
    return tiny_runs.fit(root, config, *options)


@pytest.fixture
def trained(two_epochs, monkeypatch):
    """That run; its folder is the working folder."""
    monkeypatch.chdir(two_epochs.root)
    monkeypatch.setattr("sys.argv", ["epic-pl"])
    return two_epochs


@pytest.fixture(scope="session")
def started():
    """Starts a server of a model on a port of loopback, in a thread; gives a client."""

    import httpx
    import uvicorn

    from epic_pl.inference.serving.server import Settings, build_app

    @contextmanager
    def started(model, batch=4, **settings):
        failures = []
        settings = Settings(batch=batch, **settings)
        app = build_app(model, settings, failures.append, ThreadPoolExecutor(1))
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


@pytest.fixture
def offline_wandb(monkeypatch) -> Iterator[None]:
    """wandb writes files only; its run ends with the test, or the next test would go on with it."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].finish()
        sys.modules["wandb"].teardown()  # or the next run would be in the folder of this test
