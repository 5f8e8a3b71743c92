"""How long a table of SNLI-VE's size takes from the command to the first training step.

Fabricates 500,000 rows, 17 a picture, runs ``epic-pl data check`` and then ``epic-pl fit`` with two
loader workers until its first step has been taken, each as a user does, in a process of its own:

    python benchmarks/startup_500k.py --json

Memory is in MB: ``rank_rss_mb`` of the training process, model included; ``worker_private_mb`` what
the largest loader worker has for itself, beyond the pages that it shares with the rank.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback

from epic_pl.assets.cache import cache_dir

ROWS_A_PICTURE = 17
_DISTINCT = 64  # pictures on disk; the rest are links to them
_START, _RESULT = "EPIC_BENCH_START", "EPIC_BENCH_RESULT"
_LABELS = ("entailment", "neutral", "contradiction")
_WORDS = ("a", "two", "man", "woman", "dogs", "red", "running", "outside", "near", "the", "on")


class FirstStep(Callback):
    """Notes time and memory after the first training step."""

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Write what was measured."""
        workers = [_memory(pid)["private"] for pid in _children()]
        measured = {
            "first_step_s": round(time.time() - float(os.environ[_START]), 1),
            "rank_rss_mb": _memory(os.getpid())["rss"],
            "worker_private_mb": max(workers, default=0),
            "workers": len(workers),
        }
        Path(os.environ[_RESULT]).write_text(json.dumps(measured))


def _children() -> list[int]:
    task = Path(f"/proc/self/task/{os.getpid()}/children")
    return [int(pid) for pid in task.read_text().split()]


def _memory(pid: int) -> dict[str, int]:
    """Resident and private memory of a process in MB, from Linux."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kb = {name: int(value.split()[0]) for name, value in (line.split(":") for line in lines)}
    private = kb["Private_Clean"] + kb["Private_Dirty"]
    return {"rss": kb["Rss"] // 1024, "private": private // 1024}


def fabricate(folder: Path, rows: int) -> Path:
    """A CSV of ``rows`` rows and its pictures, 224 pixels wide."""
    from PIL import Image

    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    for index in range(-(-rows // ROWS_A_PICTURE)):
        path = folder / "images" / f"{index:09d}.jpg"
        if index < _DISTINCT:
            coarse = rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((224, 224)).save(path, quality=90)
        else:
            os.link(folder / "images" / f"{index % _DISTINCT:09d}.jpg", path)
    words = np.array(_WORDS)[rng.integers(0, len(_WORDS), (rows, 8))]
    with (folder / "rows.csv").open("w") as table:
        table.write("image,text,label\n")
        for row in range(rows):
            picture = f"images/{row // ROWS_A_PICTURE:09d}.jpg"
            table.write(f"{picture},{' '.join(words[row])} {row},{_LABELS[row % 3]}\n")
    return folder / "rows.csv"


def _command(command: list[str], table: Path, *options: str) -> float:
    """Seconds that ``epic-pl COMMAND`` takes."""
    arguments = [
        "--config=table.yaml",
        f"--data.init_args.table={table}",
        "--model.image_size=112",
        *options,
    ]
    here = str(Path(__file__).parent)
    start = time.time()
    environment = {**os.environ, _START: str(start), "PYTHONPATH": here}
    code = "import sys; from epic_pl.cli import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *command, *arguments],
        env=environment,
        cwd=table.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"epic-pl {' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return round(time.time() - start, 1)


def measure(rows: int) -> dict[str, Any]:
    """Check a fabricated table, then start training on it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        table = fabricate(folder / "data", rows)
        result = folder / "first_step.json"
        os.environ[_RESULT] = str(result)
        # encoders from the user's cache, the manifest into one that goes away
        (folder / "cache").mkdir()
        (folder / "cache" / "encoders").symlink_to(cache_dir() / "encoders")
        os.environ["EPIC_PL_CACHE"] = str(folder / "cache")
        check = _command(["data", "check"], table)
        _command(
            ["fit"],
            table,
            "--trainer.callbacks=[startup_500k.FirstStep]",
            "--trainer.max_steps=1",
            "--trainer.limit_val_batches=0",
            "--trainer.num_sanity_val_steps=0",
            *(
                f"--{section}.{option}"
                for section in ("checkpoint", "early_stopping")
                for option in ("monitor=train/loss", "mode=min")
            ),
            "--trainer.accelerator=cpu",
            "--data.init_args.num_workers=2",
        )
        return {"rows": rows, "check_s": check, **json.loads(result.read_text())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    measured = measure(options.rows)
    if options.json:
        print(json.dumps(measured))
        return
    for name, value in measured.items():
        print(f"{name:>18}  {value}")


if __name__ == "__main__":
    main()
