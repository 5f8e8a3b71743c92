"""Predict on a Ray cluster of two nodes, end one in the middle, and compare with one process.

    python benchmarks/ray_nodes.py [--rows 4000] [--images paths,bytes,addresses]

Both nodes are on this machine (`ray.cluster_utils.Cluster`). Images are given as paths, as bytes
and as addresses of fsspec. One node is killed with the first two, and with addresses the calling
program, which then starts again. Every row must be there once, with the label that one process
gives and probabilities that differ by 1e-5 at most: batches are of other rows. Exit code 1 if not.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.cluster_utils import Cluster

from epic_pl import Classifier, part_files
from epic_pl.cli.epic_cli import run
from epic_pl.inference.ray import predict_parquet
from soak import fabricate

_FILES = 20
_OPTIONS = {"id": "id", "image": "image", "text": "text", "actors": 4, "batch_size": 16}
part_files.BATCHES = 8  # small files, so that there are many
_TOLERANCE = 1e-5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=4_000)
    parser.add_argument("--images", default="paths,bytes,addresses")
    options = parser.parse_args()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(prefix="epic_pl_ray_") as scratch:
        root = Path(scratch)
        os.environ["EPIC_PL_CACHE"] = str(root / "cache")
        model = train(root)
        write_tables(root, options.rows)
        expected = Classifier.load(model, device="cpu").predict_table(
            pa.concat_tables(map(pq.read_table, sorted((root / "paths").iterdir()))),
            **{name: _OPTIONS[name] for name in ("id", "image", "text")},
            image_root=root,
            progress=False,
        )
        cluster = Cluster(True, head_node_args={"num_cpus": 3, "include_dashboard": False})
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        lines, failed = [], False
        try:
            for kind in options.images.split(","):
                disturb = end_caller if kind == "addresses" else end_node
                ended = disturb(cluster, model, root / kind, root / f"{kind}-out")
                same, said = compare(root / f"{kind}-out", expected)
                lines.append(f"{kind}, {ended}: {said}")
                failed |= not same
        finally:
            ray.shutdown()
            cluster.shutdown()
    print(*lines, sep="\n")  # below what Ray says of the node
    return int(failed)


def train(root: Path) -> str:
    """A trained model's checkpoint."""
    options = {"max_epochs": 1, "enable_progress_bar": "false", "default_root_dir": root / "runs"}
    words = [f"--trainer.{name}={value}" for name, value in options.items()]
    run(["fit", "--config", str(fabricate(root)), *words])
    (best,) = root.rglob("best.ckpt")
    return str(best)


def write_tables(root: Path, count: int) -> None:
    """Folders of Parquet files whose images are paths, bytes and addresses."""
    paths = [root / "data" / "images" / f"train{row % 46}.png" for row in range(count)]
    kinds = {
        "paths": list(map(str, paths)),
        "bytes": [path.read_bytes() for path in paths],
        "addresses": [f"file://{path}" for path in paths],
    }
    for kind, images in kinds.items():
        (root / kind).mkdir()
        ids = [f"row{row}" for row in range(count)]
        table = pa.table({"id": ids, "image": images, "text": [f"number {name}" for name in ids]})
        size = -(-count // _FILES)
        for start in range(0, count, size):
            pq.write_table(table.slice(start, size), root / kind / f"{start:08}.parquet")


def end_node(cluster: Cluster, model: str, source: Path, output: Path) -> str:
    """End one of two nodes while they predict."""
    node = cluster.add_node(num_cpus=3)
    cluster.wait_for_nodes()
    call = threading.Thread(target=predict_parquet, args=(model, source, output), kwargs=_OPTIONS)
    call.start()
    written = await_files(output, call.is_alive)
    cluster.remove_node(node, allow_graceful=False)
    call.join()
    return f"one of two nodes killed after {written} files of {len(list(output.iterdir()))}"


def end_caller(cluster: Cluster, model: str, source: Path, output: Path) -> str:
    """End the calling program while two nodes predict, and start it again."""
    node = cluster.add_node(num_cpus=3)
    cluster.wait_for_nodes()
    program = (
        f"import sys; sys.path[:] = {sys.path!r}; import ray_nodes; "
        f"ray_nodes.ray.init({cluster.address!r}, log_to_driver=False); "
        f"ray_nodes.predict_parquet({model!r}, {str(source)!r}, {str(output)!r}, **{_OPTIONS!r})"
    )
    command = [sys.executable, "-c", program]
    first = subprocess.Popen(command, start_new_session=True)
    written = await_files(output, lambda: first.poll() is None)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    time.sleep(5)  # until Ray has ended its tasks
    subprocess.run(command, check=True)
    cluster.remove_node(node, allow_graceful=False)
    every = len(list(output.iterdir()))
    return f"caller killed after {written} files of {every} and started again"


def await_files(output: Path, runs: Callable[[], bool]) -> int:
    """Wait for the first files; returns how many there are."""
    while not (written := len(list(output.glob("*.parquet")))):
        if not runs():
            raise SystemExit("It has ended before it could be disturbed.")
        time.sleep(0.02)
    return written


def compare(output: Path, expected: pa.Table) -> tuple[bool, str]:
    """Whether each row is there once and equal, and the counts."""
    table = pq.read_table(output)
    ids = table["id"].to_pylist()
    said = f"{len(ids):,} rows, {len(set(ids)):,} different, of {len(expected):,}"
    if sorted(ids) != sorted(expected["sample_id"].to_pylist()):
        return False, said
    place = {name: row for row, name in enumerate(ids)}
    table = table.take([place[name] for name in expected["sample_id"].to_pylist()])
    labels = table["label"].equals(expected["label"])
    difference = max(
        float(np.abs(table[name].to_numpy() - expected[name].to_numpy()).max())
        for name in expected.column_names
        if name.startswith("probability_")
    )
    said += f"; labels as of one process: {labels}; largest difference {difference:.1e}"
    return labels and difference <= _TOLERANCE, said


if __name__ == "__main__":
    sys.exit(main())
