"""``epic-pl serve``."""

import os
import re
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from epic_pl.cli.commands.parser import PositiveInt
from epic_pl.utils.errors import ConfigError, needs_extra, raised_as

_KEY = "EPIC_PL_API_KEY"
# threads of torch that wait for each other sleep after so many turns; by default they spin on, and
# where another process takes a core, an answer then takes 30 times as long
_SPINS = "1000"


def serve(
    models: list[str],
    host: Literal["127.0.0.1", "0.0.0.0", "::"] = "127.0.0.1",
    port: PositiveInt = 8000,
    max_batch: PositiveInt = 16,
    max_waiting: PositiveInt = 256,
    max_megabytes: PositiveInt = 10,
    max_megapixels: PositiveInt = 25,
    max_characters: PositiveInt = 20_000,
    timeout: PositiveInt = 30,
    cors: str = "",
) -> None:
    """Answer requests over HTTP until SIGTERM or Ctrl-C (extra `serve`).

    POST /classify and /classify-form classify pairs, GET /docs describes them, GET /health tells
    whether models answer, GET /metrics is for Prometheus. If the environment variable
    EPIC_PL_API_KEY is set, clients must send it in the header X-API-Key.

    Args:
        models: runs, checkpoints, or saved or exported models; several models need the same
            encoders and may be named (NAME=PATH).
        host: address to listen on; 127.0.0.1 admits clients of this machine alone.
        port: port to listen on, from 1024 to 65535.
        max_batch: maximum number of requests that are classified together.
        max_waiting: maximum number of open requests; further ones get status 503.
        max_megabytes: maximum size of a request.
        max_megapixels: maximum size of an image.
        max_characters: maximum length of a text.
        timeout: time limit of a request in seconds; after that it gets status 504.
        cors: origins of web pages that may send requests, such as https://example.org, separated by
            commas, also that of a proxy's site; * admits all pages.

    Raises:
        EpicError: if a model cannot be loaded, or the server cannot listen.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)  # which libgomp reads when torch is imported
    from epic_pl.inference.classifier import Classifier
    from epic_pl.inference.multitask import MultiTaskClassifier
    from epic_pl.inference.sharing import find_model

    with needs_extra("serve", "epic-pl serve"):
        from epic_pl.inference.serving.server import Settings, run_server
    if not 1024 <= port <= 65535:
        raise ConfigError(f"--port is {port}: give one from 1024 to 65535.")
    origins = tuple(cors.split(",")) if cors else ()
    if not all(re.fullmatch(r"\*|https?://[a-z0-9.:[\]-]+", origin) for origin in origins):
        raise ConfigError(f"--cors is {cors}: give origins as https://example.org, without a path.")
    _listen(host, port).close()  # check the port before models are loaded
    paths = {name: str(find_model(path)) for name, path in _named(models).items()}
    key = os.environ.get(_KEY)
    # a page can give its own name the address 127.0.0.1, and is then no other origin
    known = ("localhost", host, *(re.sub(r".*//|:\d+$", "", origin) for origin in origins))
    hosts = known if host == "127.0.0.1" and not key else ("*",)
    sizes = max_megabytes * 10**6, max_megapixels * 10**6, max_characters
    settings = Settings(max_waiting, timeout, *sizes, origins, max_batch, key, hosts)
    names, access = ", ".join(paths), "with an API key" if key else "without an API key"
    address = f"[{host}]" if ":" in host else host
    print(f"Loading {names} ...", flush=True)
    thread = ThreadPoolExecutor(1)
    load: Any = MultiTaskClassifier.load if len(paths) > 1 else Classifier.load
    given = [paths] if len(paths) > 1 else paths.values()
    model = thread.submit(load, *given).result()
    listener = _listen(host, port)
    print(f"Serving {names} {access}: http://{address}:{port}/docs", flush=True)
    run_server(model, settings, listener, thread)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens on a host and port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    problem = f"The server cannot listen on {host}, port {port}"
    with raised_as(ConfigError, problem, "Choose another --port.", OSError):
        return socket.create_server((host, port), family=family)


def _named(models: Sequence[str]) -> dict[str, str]:
    """The paths of models by name, from ``NAME=PATH`` or the last part of the path."""
    paths: dict[str, str] = {}
    for model in models:
        name, equals, path = model.partition("=")
        if not equals or Path(model).exists():
            name, path = Path(model).resolve().name, model
        if name in paths:
            raise ConfigError(f"{paths[name]} and {path} are both called {name}: give NAME=PATH.")
        paths[name] = path
    return paths
