"""Kill training runs at random, resume them, and compare with runs that were left alone.

    python benchmarks/soak.py [--minutes 30] [--jobs 2] [--seed 0] [--variants joint,cached]

Every run is the real command line in processes of its own, on tiny encoders and a small table. It
gets SIGKILL, SIGTERM or SIGINT at a random moment, start-up included, several times in a row, and
is resumed with `--ckpt_path last`. In the end its weights and metrics must be bit-identical to
those of the undisturbed run, and no kill may take a step back behind a checkpoint that was there
before. Exit code 1 if any differ or are lost.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import tiny_encoders
import tiny_runs

_READ_ONLY = "--model.method.prompt_attention=read_only"
VARIANTS: dict[str, list[str]] = {
    "joint": [],
    "read_only": [_READ_ONLY],
    "cached": [_READ_ONLY, "--cache.level=layers"],
    "workers": ["--data.num_workers=2"],
    "accumulation": ["--trainer.accumulate_grad_batches=3"],
    "validation": ["--trainer.val_check_interval=2"],
    "every_step": ["--last_checkpoint.every_n_train_steps=1"],
    "modality_dropout": ["--model.modality_dropout=0.3"],
    "two_ranks": ["--config=ddp.yaml", "--trainer.devices=2"],
}
_COMMON = ["--trainer.max_epochs=6", "--trainer.enable_progress_bar=false"]
_COMMON.append("--model.head.dropout=0.3")
_KILLS = 5  # of a run, at most
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@dataclass
class Tally:
    """What has happened so far."""

    kills: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    options = parser.parse_args()
    end, tally = time.monotonic() + 60 * options.minutes, Tally()
    with tempfile.TemporaryDirectory(prefix="epic_pl_soak_") as scratch:
        config = fabricate(Path(scratch))
        names = options.variants.split(",")
        references = {
            name: Soak(config, name, Path(scratch) / f"{name}-reference", tally) for name in names
        }
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(Soak.undisturbed, references.values()))

            def work(job: int) -> None:
                rng = random.Random(f"{options.seed}-{job}")
                for number, name in enumerate(cycle(names[job:] + names[:job])):
                    folder = Path(scratch) / f"{name}-{job}-{number}"
                    Soak(config, name, folder, tally).disturbed(references[name], rng)
                    if time.monotonic() > end:
                        return

            list(pool.map(work, range(options.jobs)))
    for name in names:
        print(f"{name:<18}{tally.runs[name]:>4} runs")
    kills = ", ".join(f"{count} {name}" for name, count in sorted(tally.kills.items()))
    print(f"{tally.kills.total()} kills ({kills}); {len(tally.findings)} findings")
    print("\n".join(tally.findings))
    return bool(tally.findings)


def fabricate(root: Path) -> Path:
    """Encoders, a table and a config."""
    encoders = tiny_encoders.write_vit(root / "vit"), tiny_encoders.write_bert(root / "bert")
    tiny_runs.table(root / "data", train=46, val=9, test=3)
    return tiny_runs.table_config(root / "data", *encoders)


class Soak:
    """One run of a variant, however often it is killed, with all its files in a folder."""

    def __init__(self, config: Path, variant: str, folder: Path, tally: Tally) -> None:
        self.config, self.variant, self.folder, self.tally = config, variant, folder, tally
        self.seconds = 0.0
        folder.mkdir()

    def undisturbed(self) -> None:
        """Run it to its end."""
        process = self.start()
        while not self.began() and process.poll() is None:
            time.sleep(0.05)
        start = time.monotonic()
        if process.wait():
            raise SystemExit(f"{self.variant} fails by itself:\n{self.log()}")
        self.seconds = time.monotonic() - start

    def disturbed(self, reference: "Soak", rng: random.Random) -> None:
        """Kill it a few times, let it end, and compare."""
        saved = -1
        for _ in range(rng.randint(1, _KILLS)):
            process = self.start()
            if rng.random() < 0.8:  # in training, else while it starts
                known = self.began()
                while self.began() == known and process.poll() is None:
                    time.sleep(0.02)
                time.sleep(rng.random() * reference.seconds)
            else:
                time.sleep(rng.random() * 4)
            number = rng.choice(_SIGNALS)
            if process.poll() is None:
                # a scheduler signals all ranks; a user the first one
                everyone = number == signal.SIGKILL or rng.random() < 0.5
                (os.killpg if everyone else os.kill)(process.pid, number)
                self.tally.kills[number.name] += 1
            code = process.wait()
            end_all(process.pid)
            if code not in (0, -number, 128 + number):
                self.find(f"exit code {code} after {number.name}")
                return
            step = self.step()
            if step < saved:
                self.find(f"back from step {saved} to {step} after {number.name}")
            saved = max(step, saved)
            if code == 0:
                break
        else:
            if self.start().wait():
                self.find("it could not be resumed")
                return
        self.tally.runs[self.variant] += 1
        self.compare(reference)

    def compare(self, reference: "Soak") -> None:
        """Note a finding if it has not ended as another run."""
        mine, expected = self.result(), reference.result()
        if differing := [key for key in expected if mine.get(key, expected[key]) != expected[key]]:
            self.find(f"not as in the undisturbed run: {', '.join(differing)}")

    def start(self) -> "subprocess.Popen[bytes]":
        """Start or resume it."""
        command = [sys.executable, "-m", "epic_pl", "fit", "--config", str(self.config)]
        command += [*VARIANTS[self.variant], *_COMMON, f"--trainer.default_root_dir={self.folder}"]
        if self.checkpoints():
            command += ["--ckpt_path=last"]
        own = {"EPIC_PL_CACHE": str(self.folder / "cache"), "HF_HUB_OFFLINE": "1"}
        environment = {**os.environ, **own, "OMP_NUM_THREADS": "1"}
        with (self.folder / "log.txt").open("ab") as log:
            shared: Any = {"stdout": log, "stderr": log, "start_new_session": True}
            return subprocess.Popen(command, env=environment, **shared)

    def began(self) -> int:
        """Number of times that it came to training."""
        return len(list(self.folder.glob("fit/version_*/run.json")))

    def checkpoints(self) -> list[Path]:
        """Its checkpoints, the newest last."""
        found = self.folder.glob("fit/version_*/checkpoints/last.ckpt")
        return sorted(found, key=lambda path: path.stat().st_mtime)

    def step(self) -> int:
        """Of the newest checkpoint."""
        steps = (torch.load(f, weights_only=True)["global_step"] for f in self.checkpoints()[-1:])
        return int(next(steps, -1))

    def result(self) -> dict[str, Any]:
        """Hash of the weights, and metrics on validation, as the last run has noted at its end.

        Metrics on training are of what was trained on since the run was resumed, and one that was
        resumed after its last step has nothing left to measure.
        """
        records = self.folder.glob("fit/version_*/run.json")
        newest = max(records, key=lambda path: path.stat().st_mtime)
        found = json.loads(newest.read_text()).get("result")
        if found is None:
            return {"weights": f"{newest} has no result"}
        metrics = {key: each for key, each in found["metrics"].items() if key.startswith("val/")}
        return {"weights": found["weights"], **metrics}

    def log(self) -> str:
        """End of what it said."""
        return (self.folder / "log.txt").read_text(errors="replace")[-1500:]

    def find(self, what: str) -> None:
        """Note a finding."""
        self.tally.findings.append(f"{self.variant}: {what}\n{self.log()}")


def end_all(group: int) -> None:
    """End what is left of a process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
