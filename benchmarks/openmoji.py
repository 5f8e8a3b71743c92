"""EPIC on both OpenMoji tasks beside what it has to beat, by one command.

    python benchmarks/openmoji.py                                    # what make demo does
    python benchmarks/openmoji.py --config openmoji.yaml --methods epic --splits 10 --seed 1

Each method goes through the real command line: fit and predict, the last one also test. The linear
probes by scikit-learn see the same frozen encoders' pooled outputs. Same splits, same schedule,
accuracies on the test split with a 95% interval from a bootstrap over pictures. A probe's strength
is chosen on validation, the configs' options outside of the test split (docs/results.md).
The 291 test samples of the fine-grained task rarely tell apart methods that are four points from
each other, so all are trained and tested on three splits of it, and the table is over all their
samples.
"""

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torchmetrics.functional.classification import binary_calibration_error

from epic_pl.calibration import BINS, error_by_chance
from epic_pl.callbacks import CostMeter, FeatureCache
from epic_pl.cli import EPICCLI, run
from epic_pl.comparison.significance import group_of
from epic_pl.module import EPICModule
from epic_pl.parameters import trainable_share
from epic_pl.types import Batch

SPLITS = {"openmoji.yaml": 3, "openmoji_entailment.yaml": 1}
METHODS = {
    # the first one fills the feature stores that the others read
    "prompts_only": "prompts without interaction",
    "late_fusion_mlp": "late-fusion MLP",
    "epic": "EPIC",
}
PROBE_STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
BOOTSTRAP_SAMPLES = 2000


class Split(NamedTuple):
    """Pooled features of a split and its labels: ``image (N, d_v)``, ``text (N, d_t)``."""

    ids: list[str]
    image: npt.NDArray[np.float32]
    text: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def features(self, inputs: str) -> npt.NDArray[np.float32]:
        """What a probe sees: ``(N, d_v)``, ``(N, d_t)`` or both joined."""
        both = np.concatenate([self.image, self.text], axis=1)
        return {"image": self.image, "text": self.text, "image + text": both}[inputs]


class Outcome(NamedTuple):
    """What a method made of the test samples, by their ids."""

    method: str
    ids: list[str]
    correct: npt.NDArray[np.bool_]
    trainable: int
    train_seconds: float
    prepare_seconds: float = 0.0
    """Start-up, and filling the feature stores."""
    confidence: npt.NDArray[np.float32] = np.empty(0, dtype=np.float32)
    """What calibrated probability each answer has; empty but for what this package trains."""


class Row(NamedTuple):
    """A line of the result: accuracy in percent with its interval."""

    method: str
    accuracy: float
    low: float
    high: float
    trainable: int
    train_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", action="append", help="of the tasks; both without")
    parser.add_argument("--methods", default=",".join(METHODS), help="the last is shown")
    parser.add_argument("--splits", type=int, help="on which all are trained and tested")
    parser.add_argument("--seed", type=int, default=0, help="of weights, dropout and batches")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON at the end")
    arguments, overrides = parser.parse_known_args()
    methods = arguments.methods.split(",")
    tables, trained, prepared = {}, 0.0, 0.0
    for config in arguments.config or SPLITS:
        splits = arguments.splits or SPLITS.get(config, 1)
        outcomes, cli = run_task(config, methods, arguments.seed, splits, overrides)
        trained += sum(each.train_seconds for each in outcomes)
        prepared += sum(each.prepare_seconds for each in outcomes)
        tables[config] = [row(each) for each in outcomes]
        over = f", {splits} splits" if splits > 1 else ""
        show(tables[config], f"{cli.datamodule.variant}{over}")
        compare(outcomes)
        say_calibration(outcomes[-1])
        say_where(outcomes[-1].method, cli)
    console = Console()
    console.print(
        f"Training took {trained:.0f} s in all; starting the runs and filling the feature caches "
        f"another {prepared:.0f} s."
    )
    console.print("Pictures: OpenMoji, CC BY-SA 4.0, https://openmoji.org")
    if arguments.json:
        print(json.dumps({key: [row._asdict() for row in rows] for key, rows in tables.items()}))


def run_task(
    config: str, methods: list[str], seed: int, splits: int, overrides: list[str]
) -> tuple[list[Outcome], EPICCLI]:
    """Each method's outcome over all splits; the last method's files of split 0 are the last."""
    outcomes: dict[str, list[Outcome]] = {}
    for split in reversed(range(splits)):
        trained = []
        for method in methods:
            options = ["--config", config, f"--seed_everything={seed}", f"--model.method={method}"]
            # no epoch is chosen, and both tasks have a multiple of 5, so the last one is validated;
            # validation of each would take a fifth of the time
            options += ["--trainer.check_val_every_n_epoch=5"]
            options += [f"--data.split_seed={split}", *overrides]
            outcome, cli = run_method(method, options, shown=split == 0 and method == methods[-1])
            trained.append(outcome)
        for outcome in [*baselines(cli), *trained]:
            outcomes.setdefault(outcome.method, []).append(outcome)
    return [joined(each) for each in outcomes.values()], cli


def joined(outcomes: list[Outcome]) -> Outcome:
    """Of one method on several splits."""
    return outcomes[0]._replace(
        ids=[key for each in outcomes for key in each.ids],
        correct=np.concatenate([each.correct for each in outcomes]),
        train_seconds=sum(each.train_seconds for each in outcomes),
        prepare_seconds=sum(each.prepare_seconds for each in outcomes),
        confidence=np.concatenate([each.confidence for each in outcomes]),
    )


def run_method(method: str, options: list[str], shown: bool) -> tuple[Outcome, EPICCLI]:
    """Fit, then predict from the checkpoint; what is shown is tested too, for its pictures."""
    start = time.perf_counter()
    cli = run(["fit", *options, "--trainer.callbacks+=epic_pl.callbacks.CostMeter"])
    passed = time.perf_counter() - start
    meters = (each for each in cli.trainer.callbacks if isinstance(each, CostMeter))
    seconds = next(meters).fit_seconds
    best = cli.trainer.checkpoint_callback.best_model_path
    if shown:
        run(["test", *options, "--ckpt_path", best])
    predicted = run(["predict", *options, "--ckpt_path", best])
    path = Path(predicted.trainer.log_dir) / "predictions.parquet"
    table = pq.read_table(path)
    truth = test_labels(cli)
    names = cli.model.class_names
    ids = table["sample_id"].to_pylist()
    correct = np.array(
        [
            names[truth[key]] == label
            for key, label in zip(ids, table["label"].to_pylist(), strict=True)
        ]
    )
    assert len(ids) == len(truth), "every test sample is predicted once"
    probabilities = np.stack([table[f"probability_{name}"].to_numpy() for name in names], axis=1)
    confidence = probabilities.max(axis=1)
    trainable = sum(p.numel() for p in cli.model.parameters() if p.requires_grad)
    name = METHODS.get(method, method)
    return Outcome(name, ids, correct, trainable, seconds, passed - seconds, confidence), cli


def test_labels(cli: EPICCLI) -> dict[str, int]:
    cli.datamodule.setup("test")
    dataset = cli.datamodule.dataset("test")
    rows = (dataset.reference(index) for index in range(len(dataset)))
    return {row["sample_id"]: row["label"] for row in rows}


def baselines(cli: EPICCLI) -> Iterable[Outcome]:
    """The majority class, and a linear probe on each modality and on both."""
    data = cli.datamodule
    data.setup("fit")
    data.setup("test")
    # pooled outputs: out of what the runs have stored, where that can be
    options = {key: value for key, value in cli.model.hparams.items() if key[0] != "_"}
    module = EPICModule(**{**options, "method": "linear_probe"})
    FeatureCache("layers").fill(module, data, "fit", "test")
    train, val, test = (
        pooled(loader)
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    )
    data.use_features(None)
    majority = np.bincount(train.labels).argmax()
    yield Outcome("majority class", test.ids, test.labels == majority, 0, 0.0)
    for inputs in ("image", "text", "image + text"):
        start = time.perf_counter()
        scaler = StandardScaler().fit(train.features(inputs))
        features, held_out = (scaler.transform(each.features(inputs)) for each in (train, val))
        # the strengths in turn, each fit from where the one before it ended
        probe = LogisticRegression(max_iter=2000, warm_start=True)
        # torch's threads and those of BLAS get into each other's way
        with threadpool_limits(1):
            probes = [
                deepcopy(probe.set_params(C=strength).fit(features, train.labels))
                for strength in PROBE_STRENGTHS
            ]
        best = max(probes, key=lambda probe: probe.score(held_out, val.labels))
        correct = best.predict(scaler.transform(test.features(inputs))) == test.labels
        seconds = time.perf_counter() - start
        trainable = best.coef_.size + best.intercept_.size
        yield Outcome(f"linear probe, {inputs}", test.ids, correct, trainable, seconds)


def pooled(loader: Iterable[Batch]) -> Split:
    """What the frozen encoders pool, as stored."""
    batches = list(loader)
    image, text = (
        torch.cat([batch[f"{kind}_features"]["pooled"].float() for batch in batches]).numpy()
        for kind in ("image", "text")
    )
    labels = torch.cat([batch["labels"] for batch in batches]).numpy()
    return Split([key for batch in batches for key in batch["sample_id"]], image, text, labels)


def row(outcome: Outcome) -> Row:
    """Accuracy and its interval."""
    accuracy = 100 * float(outcome.correct.mean())
    interval = bootstrap(outcome.ids, outcome.correct)
    return Row(outcome.method, accuracy, *interval, outcome.trainable, outcome.train_seconds)


def bootstrap(ids: list[str], values: npt.NDArray[Any]) -> tuple[float, float]:
    """A 95% interval of the values' mean, in percent, over pictures: several may be of one."""
    pictures = np.unique([group_of(key) for key in ids], return_inverse=True)[1]
    totals = np.bincount(pictures, weights=values)
    counts = np.bincount(pictures)
    draws = np.random.default_rng(0).integers(len(counts), size=(BOOTSTRAP_SAMPLES, len(counts)))
    means = totals[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.percentile(100 * means, [2.5, 97.5])
    return float(low), float(high)


def compare(outcomes: list[Outcome]) -> None:
    """Say how EPIC stands to the best of scikit-learn's probes, sample by sample."""
    epic = next((each for each in outcomes if each.method == METHODS["epic"]), None)
    if epic is None:
        return
    probes = [each for each in outcomes if each.method.endswith(("image", "text"))]
    best = max(probes, key=lambda each: each.correct.mean())
    mine = dict(zip(enumerate_ids(epic.ids), epic.correct, strict=True))
    theirs = dict(zip(enumerate_ids(best.ids), best.correct, strict=True))
    gains = np.array([float(mine[key]) - float(theirs[key]) for key in mine])
    low, high = bootstrap([key for key, _ in mine], gains)
    Console().print(
        f"EPIC over the best probe ({best.method}): {100 * gains.mean():+.1f} points on "
        f"{len(gains):,} test samples, 95% interval {low:+.1f} to {high:+.1f}."
    )


def say_calibration(outcome: Outcome) -> None:
    """How far answers are from being right as often as they say, after temperature scaling."""
    sure = torch.from_numpy(outcome.confidence)
    right = torch.from_numpy(outcome.correct)
    error = float(binary_calibration_error(sure, right.int(), n_bins=BINS))
    chance, low, high = error_by_chance(sure)
    Console().print(
        f"Calibration error of {outcome.method} after scaling: {error:.1%} on {len(sure):,} test "
        f"samples; answers right exactly as often as they say would show {chance:.1%} (90%: "
        f"{low:.1%} to {high:.1%})."
    )


def enumerate_ids(ids: list[str]) -> list[tuple[str, int]]:
    """Ids with a number, since a picture may be in the test part of several splits."""
    seen: Counter[str] = Counter()
    keys = []
    for key in ids:
        keys.append((key, seen[key]))
        seen[key] += 1
    return keys


def show(rows: list[Row], title: str) -> None:
    table = Table(title=f"Test accuracy, {title}", title_justify="left")
    table.add_column("method", no_wrap=True)
    for column in ("accuracy % (95%)", "trained", "training s"):
        table.add_column(column, justify="right", no_wrap=True)
    for each in rows:
        table.add_row(
            each.method,
            f"{each.accuracy:.1f} ({each.low:.1f} to {each.high:.1f})",
            f"{each.trainable:,}",
            f"{each.train_seconds:.0f}",
        )
    Console().print(table)


def say_where(method: str, cli: EPICCLI) -> None:
    root = cli.trainer.default_root_dir
    Console().print(
        f"{method} trains {trainable_share(cli.model.model):.2%} of the encoders' parameters. Logs "
        f"(tensorboard --logdir {root}), checkpoints, confusion matrix and predictions: {root}/"
    )


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
