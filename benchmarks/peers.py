"""EPIC and AutoGluon MultiModal with the same two encoders, at equal processor time.

    python3 -m venv ag && ag/bin/pip install autogluon.multimodal==1.6.3
    python benchmarks/peers.py --autogluon ag/bin/python                    # one_word
    python benchmarks/peers.py --autogluon ag/bin/python --tasks FOLDER     # of folds.py

Both train on the rows outside of fold 0 of `folds.py`, and answer those of fold 0. EPIC has the
config of `data init` and an empty store of features; its time is all that its process takes, from
the start to the test's scores. AutoGluon trains once in that time and once in four times that, on
one thread as EPIC, in its own defaults and with frozen encoders. Its schedule of the learning rate
is as long as the epochs that fit, and time after training and of the test is not counted. It draws
its validation rows itself. All times are of the processor, since a clock also counts others' work.

It has no classifier of several labels: such a table becomes one of two classes, whether a row has
the label that most nearly half of the rows have. Finished runs are not repeated.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from sklearn.metrics import roc_auc_score

import tables
from common import build_parser, show
from epic_pl import Classifier
from epic_pl.experiments.training import train_and_test
from epic_pl.utils.assets.encoders import resolve
from epic_pl.utils.files import try_read_json, write_json

# LoRA in no layer; the rate that AutoGluon's tutorial gives where few parameters are trained
_FROZEN = {"optim.peft": "lora", "optim.lora.filter": ["^$"], "optim.lr": 3e-3}
SETTINGS: dict[str, dict[str, Any]] = {"all weights": {}, "frozen encoders": _FROZEN}
_EPIC = "--epic-of"
_WORKER = Path(__file__).with_name("peers_autogluon.py")
_CALLS = 10


def main() -> None:
    if sys.argv[1:2] == [_EPIC]:
        epic(json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")), Path(sys.argv[2]).parent)
        return
    parser = build_parser(__doc__)
    parser.add_argument("--autogluon", type=Path, required=True, help="Python that has AutoGluon")
    parser.add_argument("--tasks", default="one_word", help="of folds.py, but not OpenMoji's own")
    parser.add_argument("--times", default="1,4", help="times that of EPIC (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/peers"))
    arguments, options = parser.parse_known_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that it starts
    rows = []
    for task in arguments.tasks.split(","):
        config = write_table(task, arguments.folder)
        rows += compare(config, arguments, options)
    show(rows, arguments.json)


def write_table(task: str, folder: Path) -> Path:
    """The config of a table of one label a row, with a column ``fold0``."""
    config = tables.write(folder / "tables", task)
    given = _data(config)
    if (separator := given["label_separator"]) is None:
        return config
    with Path(given["table"]).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = given["image_column"], given["text_columns"], given["label_column"]
    image, text, label = ([row[name] for row in rows] for name in names)
    sets = [set(map(str.strip, cell.split(separator))) for cell in label]
    counts = Counter(name for each in sets for name in each)
    chosen = min(sorted(counts), key=lambda name: abs(counts[name] - len(rows) / 2))
    answers = [chosen if chosen in each else f"not {chosen}" for each in sets]
    view = folder / "views" / f"{Path(task).name}_{chosen}"
    columns = {"image": image, "text": text, "label": answers, "split": ["train"] * len(rows)}
    tables.write_csv(view / "table.csv", columns)
    return tables.write(folder / "tables", str(view))


def _data(config: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))
    return dict(found["data"]["init_args"])


def compare(
    config: Path, arguments: argparse.Namespace, options: Sequence[str]
) -> list[dict[str, Any]]:
    """A row for EPIC, and one for each setting of AutoGluon and each time."""
    task, seed = config.parent.name, arguments.seed
    folder = (arguments.folder / task / f"seed{seed}").resolve()
    given = ["--config", str(config), "--data.split_column=fold0", "--trainer.accelerator=cpu"]
    given += [f"--cache.folder={folder / 'EPIC' / 'store'}", f"--seed_everything={seed}", *options]
    [own] = work([sys.executable, __file__, _EPIC], folder / "EPIC", given)
    rows = [score("EPIC", task, own)]
    splits = write_splits(config, folder)
    times = [float(each) for each in arguments.times.split(",")]
    for name, setting in SETTINGS.items():
        request = {**splits, **_encoders(config), "options": setting, "seed": seed}
        request["budgets"] = [each * own["seconds"] for each in times]
        command = [str(arguments.autogluon), str(_WORKER)]
        results = work(command, folder / name.replace(" ", "_"), request)
        for each, result in zip(times, results, strict=True):
            if sorted(result["truth"]) != sorted(own["truth"]):
                raise SystemExit(f"AutoGluon has other test rows than EPIC: remove {folder}.")
            rows.append(score(f"AutoGluon {name}, {each:g} times the time", task, result))
    return rows


def _encoders(config: Path) -> dict[str, Any]:
    """Folders of the encoders, and the size of images, as EPIC has them."""
    encoders = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]["encoders"]
    places = {f"{key}_encoder": resolve(encoders[key]["name"]) for key in ("image", "text")}
    return {**places, "image_size": encoders["image_size"]}


def epic(options: Sequence[str], folder: Path) -> None:
    """Train and test EPIC; write its probabilities, processor time, latency and size."""
    result = train_and_test(options, folder)
    seconds = time.process_time()
    table = pq.read_table(folder / "predictions.parquet").to_pydict()
    names = [name for name in table if name.startswith("probability_")]
    classifier = Classifier.load(result["checkpoint"], device="cpu")
    classifier.save_pretrained(folder / "saved")
    saved = (file for file in (folder / "saved").rglob("*") if file.is_file())
    one = read_rows(Path(options[1]), "test")[0]
    milliseconds = []
    for _ in range(_CALLS + 1):
        begin = time.process_time()
        classifier(image=one["image"], text=one["text"])
        milliseconds.append(1000 * (time.process_time() - begin))
    run = {
        "classes": [name.removeprefix("probability_") for name in names],
        "probabilities": np.stack([table[name] for name in names], axis=1).tolist(),
        "truth": table["truth"],
        "seconds": seconds,
        "epochs": result["epochs"],
        "latency_ms": statistics.median(milliseconds[1:]),
        "megabytes": sum(file.stat().st_size for file in saved) / 1e6,
    }
    write_json(folder / "result.json", {"runs": [run]})


def work(command: Sequence[str], folder: Path, request: Any) -> list[dict[str, Any]]:
    """What a process writes for a request, or has written before: a result for each budget."""
    if (result := try_read_json(folder / "result.json")) is None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "request.json", request)
        with (folder / "log.txt").open("w") as log:
            command = [*command, str(folder / "request.json")]
            code = subprocess.run(command, stdout=log, stderr=log).returncode
        if (result := try_read_json(folder / "result.json")) is None:
            raise SystemExit(f"It ended with code {code} (log: {folder / 'log.txt'})")
    return list(result["runs"])


def read_rows(config: Path, split: str) -> list[dict[str, str]]:
    """Image, text and label of the rows of a split."""
    given = _data(config)
    names = {key: given[f"{key}_column"] for key in ("image", "label")}
    names["text"] = given["text_columns"]
    with Path(given["table"]).open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["fold0"] == split]
    return [{key: row[name] for key, name in names.items()} for row in rows]


def write_splits(config: Path, folder: Path) -> dict[str, str]:
    """Files of the rows of both splits."""
    paths = {}
    for split in ("train", "test"):
        rows = read_rows(config, split)
        paths[split] = str(folder / f"{split}.csv")
        tables.write_csv(Path(paths[split]), {key: [row[key] for row in rows] for key in rows[0]})
    return paths


def score(name: str, task: str, result: dict[str, Any]) -> dict[str, Any]:
    """A row of the table, with accuracy and AUROC (the mean over classes) in percent."""
    classes, probabilities = result["classes"], np.array(result["probabilities"])
    truth = np.array([classes.index(label) for label in result["truth"]])
    auroc = np.mean([roc_auc_score(truth == k, probabilities[:, k]) for k in set(truth.tolist())])
    return {
        "task": task,
        "method": name,
        "accuracy": round(100 * float((probabilities.argmax(1) == truth).mean()), 1),
        "auroc": round(100 * float(auroc), 1),
        "seconds": round(result["seconds"]),
        "epochs": result["epochs"],
        "saved_mb": round(result["megabytes"], 1),
        "latency_ms": round(result["latency_ms"]),
    }


if __name__ == "__main__":
    main()
