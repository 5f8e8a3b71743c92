"""Runs without training: folders, results and predictions as those of a training."""

import json
import os
import signal
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from epic_pl.experiments.runs import Run

CLASSES = ["blue", "green", "red"]


def run(root, name, seed=0):
    return Run(name, seed, (), root / "runs" / f"{name}-{seed}")


def work(options, folder):
    """What a run does, by its name: finish, raise, die, or wait at the first time."""
    started, name = folder / "started", folder.name.partition("-")[0]
    if name == "raises":
        raise ValueError("the prompt\nis too long")
    if name == "dies":
        print("to the log", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "waits" and not started.exists():
        started.touch()
        time.sleep(60)
    return {"accuracy": 0.5, "place": [os.environ.get("PLACE"), os.getcwd()]}


def result(seed, accuracy):
    """Content of result.json."""
    return {
        "task": "multiclass",
        "metrics": {"accuracy": accuracy, "f1_macro": accuracy / 2, "loss": 1.0},
        "trainable": 100,
        "encoder_share": 0.01,
        "samples_per_s": 10.0 * (seed + 1),
        "peak_memory_mb": 5.0,
        "seconds": 3.0,
        "storing_s": 2.0,
        "latency_ms": 20.0,
        "cache_level": "layers",
        "device": "cpu",
        "torch": "2",
    }


def write_predictions(folder, truth, predicted, ids=None, images=None):
    """A table of class indices, with probability 1 for each predicted class."""
    folder.mkdir(parents=True, exist_ok=True)
    scores = np.eye(len(CLASSES), dtype=np.float32)[predicted]
    ids = ids or [f"sample{number}" for number in range(len(truth))]
    columns = {"sample_id": ids, "image_path": pa.array(images or [None] * len(ids), pa.string())}
    columns["truth"] = [CLASSES[label] for label in truth]
    columns |= {f"probability_{name}": scores[:, i] for i, name in enumerate(CLASSES)}
    pq.write_table(pa.table(columns), folder / "predictions.parquet")


def write_labels(folder, truth, scores, names):
    """A table of several labels ``(N, C)`` with their probabilities."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = [[names[column] for column in np.flatnonzero(row)] for row in truth]
    columns = {"sample_id": [f"sample{number}" for number in range(len(truth))]}
    columns["image_path"] = pa.array([None] * len(truth), pa.string())
    columns["truth"] = pa.array(labels, pa.list_(pa.string()))
    columns |= {f"probability_{name}": scores[:, i] for i, name in enumerate(names)}
    pq.write_table(pa.table(columns), folder / "predictions.parquet")


def done(root, name, seed, truth, predicted, ids=None, images=None):
    """A finished run, with its files."""
    each = run(root, name, seed)
    write_predictions(each.folder, truth, predicted, ids, images)
    each.result = result(seed, float(np.mean(np.equal(truth, predicted))))
    (each.folder / "result.json").write_text(json.dumps(each.result))
    return each
