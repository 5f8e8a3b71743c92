"""Runs that nobody trained: folders, results and predictions as a worker leaves them."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from epic_pl.experiments.compare.plan import Run
from epic_pl.experiments.compare.runner import Outcome

CLASSES = ["blue", "green", "red"]


def run(root, name, seed=0):
    return Run(name, name, seed, (), root / "runs" / f"{name}-{seed}", f"key of {name}-{seed}")


def result(each, correct, **more):
    """As result.json; ``correct`` is the accuracy."""
    return {
        "key": each.key,
        "task": "multiclass",
        "metrics": {"accuracy": correct, "f1_macro": correct / 2, "loss": 1.0},
        "trainable": 100,
        "encoder_share": 0.01,
        "samples_per_s": 10.0 * (each.seed + 1),
        "peak_memory_mb": 5.0,
        "seconds": 3.0,
        "seconds_to_best": 2.0,
        "prepare_seconds": 0.5,
        "cache_level": "layers",
        "train_frequencies": [0.2, 0.5, 0.3],
        "device": "cpu",
        "torch": "2",
    } | more


def write_predictions(folder, truth, guessed, ids=None):
    """Class indices of each sample, certain of what is guessed."""
    folder.mkdir(parents=True, exist_ok=True)
    scores = np.eye(len(CLASSES), dtype=np.float32)[guessed]
    ids = ids or [f"sample{number}" for number in range(len(truth))]
    columns = {"sample_id": ids, "truth": [CLASSES[label] for label in truth]}
    columns |= {f"probability_{name}": scores[:, i] for i, name in enumerate(CLASSES)}
    pq.write_table(pa.table(columns), folder / "predictions.parquet")


def done(root, name, seed, truth, guessed, ids=None, **more):
    """A run that is over, with its files."""
    each = run(root, name, seed)
    write_predictions(each.folder, truth, guessed, ids)
    content = result(each, float(np.mean(np.equal(truth, guessed))), **more)
    (each.folder / "result.json").write_text(json.dumps(content))
    return Outcome(each, "done", result=content)
