"""Throughput and latency of `epic-pl serve` on this machine, over loopback.

    python benchmarks/serve.py runs/NAME                    # all settings; a quarter of an hour
    python benchmarks/serve.py runs/NAME --concurrency 1,8,32 --seconds 20 --json

Every setting is a server of its own, as a user starts it. Clients in this process send image-text
pairs (JPEG of 224 x 224 pixels, a text of twelve words), each waiting for its response before the
next request; they share the machine with the server. `batched` classifies up to 16 requests
together, `single` one at a time, `onnx` is the exported model, batched. `classifier` is a
:class:`~epic_pl.Classifier` in this process without a server, given as many items at once as there
are clients. Settings take turns, in as many rounds as asked for; numbers are medians over rounds.
"""

import argparse
import asyncio
import base64
import io
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from common import WORDS, build_parser, show
from epic_pl import Classifier

_PAIRS = 64
SETTINGS = {"classifier": [], "batched": [], "single": ["--max-batch", "1"], "onnx": []}


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("model", help="a run or a checkpoint")
    parser.add_argument("--settings", default=",".join(SETTINGS))
    parser.add_argument("--concurrency", default="1,4,16", help="clients at the same time")
    parser.add_argument("--seconds", type=float, default=15, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    show(measure(options), options.json)


@contextmanager
def served(model: str, *options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server that answers, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "epic_pl", "serve", model, "--port", port, *options]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        address = f"http://127.0.0.1:{port}"
        try:
            wait_until_ready(address, process, log)
            yield address, process
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def wait_until_ready(address: str, process: subprocess.Popen[bytes], log: Any) -> None:
    while process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(f"{address}/health").status_code == 200:
                return
        time.sleep(0.5)
    log.seek(0)
    raise SystemExit(log.read().decode())


def memory_mb(process: subprocess.Popen[bytes]) -> float:
    """Memory of a server, which may have several processes; pages that they share count once."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) == process.pid:
                lines = (folder / "smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):
            continue  # it has ended
    return total / 1000


def build_requests() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    requests = []
    for _ in range(_PAIRS):
        pixels = rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).resize((224, 224)).save(file, "JPEG")
        image = base64.b64encode(file.getvalue()).decode()
        requests.append({"json": {"image": image, "text": " ".join(rng.choice(WORDS, 12))}})
    return requests


async def load(address: str, clients: int, seconds: float) -> tuple[list[float], Counter[str]]:
    """Seconds of each request, and how often requests ended with which status."""
    requests = build_requests()
    times: list[float] = []
    counts: Counter[str] = Counter()
    end = time.monotonic() + seconds

    async def ask(client: httpx.AsyncClient, number: int) -> None:
        while time.monotonic() < end:
            start = time.perf_counter()
            try:
                response = await client.post("/classify", **requests[number % len(requests)])
                counts[str(response.status_code)] += 1
            except httpx.TransportError as error:
                counts[type(error).__name__] += 1
            times.append(time.perf_counter() - start)
            number += clients

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=address, timeout=60, limits=limits) as client:
        await asyncio.gather(*(ask(client, number) for number in range(clients)))
    return times, counts


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    measured: dict[tuple[str, int], list[dict[str, Any]]] = {}
    concurrency = [int(number) for number in options.concurrency.split(",")]
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(options.rounds):
            for setting in options.settings.split(","):
                print(f"{setting}, round {number + 1} of {options.rounds} ...", file=sys.stderr)
                model = options.model
                if setting == "onnx":
                    model = exported(options.model, Path(scratch) / "exported")
                if setting == "classifier":
                    rows = [in_process(model, n, options.seconds) for n in concurrency]
                else:
                    rows = over_loopback(model, SETTINGS[setting], concurrency, options.seconds)
                for clients, row in zip(concurrency, rows, strict=True):
                    measured.setdefault((setting, clients), []).append(row)
    return [
        {"setting": setting, "clients": clients}
        | {key: round(statistics.median(row[key] for row in rounds), 1) for key in rounds[0]}
        for (setting, clients), rounds in measured.items()
    ]


def over_loopback(
    model: str, settings: list[str], concurrency: list[int], seconds: float
) -> list[dict[str, float]]:
    """A row of a server for each number of clients."""
    with served(model, *settings) as (address, process):
        asyncio.run(load(address, 2, 3))  # warms up
        rows = []
        for clients in concurrency:
            row = summary(*asyncio.run(load(address, clients, seconds)), seconds)
            rows.append(row | {"memory_mb": round(memory_mb(process))})
    return rows


def in_process(model: str, items: int, seconds: float) -> dict[str, float]:
    """A row of a classifier that gets so many items at once."""
    classifier = Classifier.load(model, device="cpu")
    given = [
        {"image": base64.b64decode(request["json"]["image"]), "text": request["json"]["text"]}
        for request in build_requests()[:items]
    ]
    classifier(given)  # warms up
    times: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.perf_counter()
        classifier(given)
        times += [time.perf_counter() - start] * items
    return summary(times, Counter({"200": len(times)}), seconds) | {"memory_mb": 0}


def summary(times: list[float], counts: Counter[str], seconds: float) -> dict[str, float]:
    percentiles = np.percentile(times, (50, 95, 99)) * 1000
    p50, p95, p99 = (round(float(value), 1) for value in percentiles)
    rate = round(counts["200"] / seconds, 1)
    failed = counts.total() - counts["200"]
    return {"requests_per_s": rate, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "failed": failed}


def exported(model: str, folder: Path) -> str:
    if not folder.exists():
        checkpoint = next(path for path in sorted(Path(model).rglob("*.ckpt")))
        command = [sys.executable, "-m", "epic_pl", "export", str(checkpoint)]
        command += ["--output", str(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return str(folder)


if __name__ == "__main__":
    main()
