"""Seconds of a fit with columns, in quiet and beside other work, with all threads and with one.

    python benchmarks/busy.py                      # about ten minutes on two processors
    python benchmarks/busy.py --rounds 1 --json

640 emoji with their image, name, and a fabricated price and brand are trained for two epochs, from
stored features, in processes of their own. Other work is one endless loop for each processor. The
ways take turns; each number is the median over rounds, and the ratio that of the ways in a round.
"""

import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common import build_parser, show
from epic_pl.data.datasets.openmoji import LEFT_OUT
from epic_pl.data.inspection.init import write_config
from epic_pl.utils.assets import fetch_openmoji, load_emoji
from tables import write_csv

ROWS = 640


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--method", default="EPIC")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        command = prepare(Path(folder), options.method)
        fit(command, "")  # stores the features
        found: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for _ in range(options.rounds):
            for work in ("quiet", "busy"):
                loops = [endless() for _ in range(os.cpu_count() or 1) if work == "busy"]
                for threads in ("all", "1"):
                    taken = fit(command, "" if threads == "all" else "1")
                    found.setdefault((work, threads), []).append(taken)
                for loop in loops:
                    loop.kill()
                    loop.wait()
    show([line(work, threads, found) for work, threads in found], options.json)


def prepare(folder: Path, method: str) -> list[str]:
    """Write the table; the command that trains on it."""
    draw, images = random.Random(0), fetch_openmoji(112).resolve()
    known = [each for each in load_emoji() if each.category not in LEFT_OUT]
    rows = draw.sample(known, ROWS)
    kinds = sorted({each.category for each in rows})
    table = {
        "image": [str(images / f"{each.code}.png") for each in rows],
        "text": [each.name for each in rows],
        "label": [each.category for each in rows],
        "price": [f"{kinds.index(each.category) + draw.random():.2f}" for each in rows],
        "brand": [draw.choice(("Ajax", "Orion", "Vega")) for _ in rows],
    }
    write_csv(folder / "table.csv", table)
    write_config(folder / "table.csv", True, folder / "config.yaml")
    places = [f"--trainer.default_root_dir={folder / 'runs'}", f"--model.method={method}"]
    size = ["--model.encoders.image_size=112", "--trainer.max_epochs=2", "--cache.level=auto"]
    return ["epic-pl", "fit", "--config", str(folder / "config.yaml"), *places, *size]


def endless() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "while True: pass"])


def fit(command: list[str], threads: str) -> tuple[float, float]:
    """Seconds of the clock and of the processor."""
    given = {**os.environ, "OMP_NUM_THREADS": threads} if threads else dict(os.environ)
    before, start = os.times(), time.monotonic()
    subprocess.run(command, env=given, check=True, capture_output=True)
    after = os.times()
    used = after.children_user + after.children_system
    return time.monotonic() - start, used - before.children_user - before.children_system


def line(work: str, threads: str, found: dict[tuple[str, str], list[tuple[float, float]]]) -> Any:
    seconds, used = zip(*found[work, threads], strict=True)
    one = [clock for clock, _ in found[work, "1"]]
    ratios = [clock / other for clock, other in zip(seconds, one, strict=True)]
    return {
        "other work": work,
        "threads": threads,
        "seconds": round(statistics.median(seconds), 1),
        "of the processor": round(statistics.median(used), 1),
        "over one thread": round(statistics.median(ratios), 2),
    }


if __name__ == "__main__":
    main()
