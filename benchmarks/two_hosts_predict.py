"""Encode and predict on two hosts, kill one in the middle, start again, and compare.

    sudo python benchmarks/two_hosts_predict.py [--rows 5000] [--jobs cache,predict,embed]

The hosts are those of `two_hosts.py`. `epic-pl cache build`, `predict` and `embed` run under
torchrun on both, and then as three shards of an array, of which the second is killed and started
again. Every row must be there once, and every file must be bit-identical to that of one process.
Exit code 1 if one is not.
"""

import argparse
import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from epic_pl.features.store.reader import FeatureStore
from soak import fabricate
from two_hosts import HOSTS, connect, disconnect, end

_PORT = 29433
_SHARDS = 3
# small files, so that there are many
_SCRIPT = """
import sys

from epic_pl.data import bulk
from epic_pl.module.callbacks import feature_cache
from epic_pl.cli.main import main

feature_cache.SHARD_BYTES, bulk.BATCHES = 4_000_000, 8
main(sys.argv[1:])
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--jobs", default="cache,predict,embed")
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory(prefix="epic_pl_hosts_") as scratch:
        root = Path(scratch)
        jobs = prepare(root, options.rows)
        connect()
        try:
            for name in options.jobs.split(","):
                words = jobs[name]
                whole = root / "one" / name
                launch(root, whole, words).wait()
                expected = files(whole)
                print(f"{name}, one process: {len(expected)} files, {rows(whole)}", flush=True)
                for how, run in (("two hosts", two_hosts), ("array", array)):
                    folder = root / how / name
                    run(root, folder, words)
                    killed = len(files(folder))
                    assert killed < len(expected), "it was killed too late"
                    run(root, folder, words, kill=False)
                    same = files(folder) == expected
                    failed |= not same
                    print(
                        f"{name}, {how}: killed after {killed} files; then {rows(folder)}; "
                        f"as one process: {same}",
                        flush=True,
                    )
        finally:
            disconnect()
    return int(failed)


def prepare(root: Path, count: int) -> dict[str, list[str]]:
    """A trained model and a table; the commands, which still lack the output."""
    (root / "run.py").write_text(_SCRIPT)
    config, table = str(fabricate(root)), root / "data" / "rows.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "text"])
        for row in range(count):
            writer.writerow([f"row{row}", f"images/train{row % 46}.png", f"number {row}"])
    launch(root, root / "fit", ["fit", "--config", config, "--trainer.max_epochs=1"]).wait()
    (best,) = root.rglob("best.ckpt")
    given = ["--config", config, f"--data.init_args.predict_table={table}"]
    given += ["--trainer.enable_progress_bar=false", "--trainer.logger=false"]
    cache = ["--model.epic.prompt_attention=read_only", "--cache.level=layers", "--cache.folder"]
    columns = ["--image=image", "--text=text", "--id=id", "--output"]
    return {
        "cache": ["cache", "build", *given, *cache],
        "predict": ["predict", *given, f"--ckpt_path={best}", "--predictions.output"],
        "embed": ["embed", str(best), str(table), *columns],
    }


def files(folder: Path) -> dict[str, bytes]:
    """Content of all that was written, without digests of image files."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in (".safetensors", ".parquet")
    }


def rows(folder: Path) -> str:
    """Number of rows, and of different ones."""
    if stores := [FeatureStore(path.parent) for path in sorted(folder.glob("*/spec.json"))]:
        digests = [store.digests.tolist() for store in stores]
        ids = [(place, digest) for place, every in enumerate(digests) for digest in every]
    else:
        ids = pq.read_table(folder, columns=["sample_id"])["sample_id"].to_pylist()
    return f"{len(ids):,} rows, {len(set(ids)):,} different"


def two_hosts(root: Path, folder: Path, words: list[str], kill: bool = True) -> None:
    """Run a command under torchrun on both hosts, and kill one."""
    options = ["--config=ddp.yaml", "--trainer.num_nodes=2", "--trainer.devices=1"]
    options += ["--trainer.accelerator=cpu"]
    jobs = {}
    for rank, host in enumerate(HOSTS):
        torchrun = ["-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={rank}"]
        torchrun += ["--nproc-per-node=1", f"--master-port={_PORT}"]
        torchrun += [f"--master-addr={HOSTS['epic_a']}"]
        inside = ["ip", "netns", "exec", host]
        more = [] if words[0] == "embed" else options
        jobs[host] = launch(root, folder, words, more, torchrun, inside, GLOO_SOCKET_IFNAME=host)
    if kill:
        await_files(root, folder, jobs["epic_b"])
        end("epic_b")
        time.sleep(1)
        end("epic_a")
    for job in jobs.values():
        if job.wait() and not kill:
            raise SystemExit((root / "log.txt").read_text()[-3000:])


def array(root: Path, folder: Path, words: list[str], kill: bool = True) -> None:
    """Run a command in shards, one after another, and kill the second before the third starts."""
    for shard in range(1, _SHARDS + 1):
        job = launch(root, folder, words, [f"--shard={shard}/{_SHARDS}"])
        if kill and shard == 2:
            await_files(root, folder, job)
            os.killpg(job.pid, signal.SIGKILL)
        if job.wait() and not (kill and shard == 2):
            raise SystemExit((root / "log.txt").read_text()[-3000:])


def await_files(root: Path, folder: Path, job: "subprocess.Popen[bytes]") -> None:
    """Wait for two more files."""
    before = len(files(folder))
    while len(files(folder)) < before + 2:
        if job.poll() is not None:
            log = (root / "log.txt").read_text()[-3000:]
            raise SystemExit(f"A job has ended before it could be killed:\n{log}")
        time.sleep(0.02)


def launch(
    root: Path,
    folder: Path,
    words: list[str],
    options: list[str] | None = None,
    launcher: list[str] | None = None,
    inside: list[str] | None = None,
    **variables: str,
) -> "subprocess.Popen[bytes]":
    """Start a command that writes to a folder."""
    command = [*(inside or []), sys.executable, *(launcher or []), str(root / "run.py"), *words]
    command += [str(folder)] if words[0] != "fit" else []
    own = {"EPIC_PL_CACHE": str(root / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    folder.mkdir(parents=True, exist_ok=True)
    with (root / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [*command, *(options or [])],
            stdout=log,
            stderr=log,
            cwd=root,
            env={**os.environ, **own, **variables},
            start_new_session=True,
        )


if __name__ == "__main__":
    sys.exit(main())
