"""EPIC on both OpenMoji tasks beside what it has to beat, by one command.

    python benchmarks/openmoji.py                                    # what make demo does
    python benchmarks/openmoji.py --config openmoji.yaml --methods epic --splits 10

Each run is a fit and a test through the real command line, in a process of its own, as those of
`epic-pl compare`; two at a time, since a step on a few prompts does not fill two cores. The linear
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
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torchmetrics.functional.classification import binary_calibration_error

from epic_pl.arguments import INTERRUPTED
from epic_pl.assets import OPENMOJI_ATTRIBUTION
from epic_pl.callbacks import FeatureCache
from epic_pl.cli import EPICCLI, quiet_lightning, run
from epic_pl.config_files import first_config
from epic_pl.experiments.compare.interruption import terminated_as_interrupted
from epic_pl.experiments.compare.plan import Run, choose, plan
from epic_pl.experiments.compare.progress import LiveProgress
from epic_pl.experiments.compare.runner import Outcome, Runner, devices
from epic_pl.experiments.compare.significance import group_of
from epic_pl.experiments.compare.statistics import Predictions
from epic_pl.inspection.pictures import default_workers
from epic_pl.module import EPICModule
from epic_pl.module.postprocess import BINS, error_by_chance
from epic_pl.types import Batch

SPLITS = {"openmoji.yaml": 3, "openmoji_entailment.yaml": 1}
METHODS = {
    "prompts_only": "prompts without interaction",
    "late_fusion_mlp": "late-fusion MLP",
    "epic": "EPIC",
}
# no epoch is chosen, and both tasks have a multiple of 5, so the last one is validated; validation
# of each would take a fifth of the time
SHARED = ("--trainer.check_val_every_n_epoch=5",)
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


class Answers(NamedTuple):
    """What a method made of the test samples, by their ids."""

    method: str
    ids: list[str]
    correct: npt.NDArray[np.bool_]
    trainable: int
    train_seconds: float
    confidence: npt.NDArray[np.float64] = np.empty(0)
    """What calibrated probability each answer has; empty but for what this package trains."""


class Row(NamedTuple):
    """A line of the result: accuracy in percent with its interval."""

    method: str
    accuracy: float
    low: float
    high: float
    trainable: int
    train_seconds: float


class BuiltCLI(EPICCLI):
    """Builds model and data as ``fit`` does, and runs nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", action="append", help="of the tasks; both without")
    parser.add_argument("--methods", default=",".join(METHODS), help="the last is shown")
    parser.add_argument("--splits", type=int, help="on which all are trained and tested")
    parser.add_argument("--jobs", type=int, default=min(2, default_workers()), help="at a time")
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"), help="of all runs")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON at the end")
    arguments, overrides = parser.parse_known_args()
    configs = arguments.config or list(SPLITS)
    planned = {}
    for config in configs:
        splits, folder = arguments.splits or SPLITS.get(config, 1), arguments.folder
        planned[config] = runs_of(config, arguments.methods, splits, folder, overrides)
    # the last task's runs take longest: whoever starts with them does not end with one alone
    queue = [each for runs in reversed(planned.values()) for each in runs]
    there = runs_kept(queue)
    start = time.perf_counter()
    for runs in planned.values():
        if not there.issuperset(runs):
            prepare(runs[-1])
    prepared = time.perf_counter() - start
    ended = train(queue, arguments.jobs)
    passed = time.perf_counter() - start - prepared
    tables = {}
    for config, runs in planned.items():
        answers = [*probes(runs), *trained([ended[each] for each in runs])]
        tables[config] = [row(each) for each in answers]
        splits = len({each.seed for each in runs})
        show(tables[config], Path(config).stem + (f", {splits} splits" if splits > 1 else ""))
        compare(answers)
        say_calibration(answers[-1])
        say_where(next(ended[each] for each in runs if each.method == runs[-1].method))
    seconds = sum(result_of(ended[each])["seconds"] for each in queue if each not in there)
    console = Console()
    before = f" {len(there)} runs were there from before." if there else ""
    console.print(
        f"Training and testing took {passed:.0f} s, up to {arguments.jobs} runs at a time; the "
        f"fits alone add up to {seconds:.0f} s. Storing features before took {prepared:.0f} s."
        + before
    )
    console.print(OPENMOJI_ATTRIBUTION)
    if arguments.json:
        print(json.dumps({key: [row._asdict() for row in rows] for key, rows in tables.items()}))


def runs_of(
    config: str, methods: str, splits: int, folder: Path, overrides: Sequence[str]
) -> list[Run]:
    """Each method on each split, split by split."""
    task = first_config(options := ["--config", config, *SHARED, *overrides])
    runs = plan(choose(methods, []), splits, options, folder / task, splits=splits > 1)
    return [replace(each, name=f"{task} {each.name}") for each in runs]


def runs_kept(runs: Sequence[Run]) -> set[Run]:
    """Those of an interrupted call that are done; where all are, they are trained anew."""
    done = {each for each in runs if each.result()}
    if len(done) < len(runs):
        return done
    for each in done:
        shutil.rmtree(each.folder)
    return set()


def prepare(each: Run) -> None:
    """Fetch what a task needs and store its features, before its runs do it side by side."""
    cli = run(["fit", *each.options], BuiltCLI)
    cli.datamodule.prepare_data()
    cli.datamodule.setup("fit")
    cli.datamodule.setup("test")
    cache = next(each for each in cli.trainer.callbacks if isinstance(each, FeatureCache))
    if cache.level != "off":
        cache.fill(cli.model, cli.datamodule, "fit", "test")


def train(runs: Sequence[Run], jobs: int) -> dict[Run, Outcome]:
    """Fit and test each, ``jobs`` at a time."""
    if jobs < 1:
        raise SystemExit(f"--jobs is {jobs}: it counts from 1.")
    # for their processes: this one has its threads already
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, default_workers() // jobs)))
    progress = LiveProgress(len(runs), Console())
    try:
        with terminated_as_interrupted(), progress:
            outcomes = Runner(devices(jobs), None, progress).execute(runs)
    except KeyboardInterrupt:
        print("Interrupted: the same command goes on where this one stopped.", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    if any(each.result is None for each in outcomes):
        raise SystemExit("Not all runs came to their end: see above why.")
    return {each.run: each for each in outcomes}


def title(each: Run) -> str:
    return METHODS.get(each.method, each.method)


def result_of(outcome: Outcome) -> dict[str, Any]:
    assert outcome.result is not None  # the others have ended the script
    return outcome.result


def trained(outcomes: Sequence[Outcome]) -> list[Answers]:
    """What each method answered, over all splits."""
    by_method: dict[str, list[Answers]] = {}
    for outcome in outcomes:
        result, name = result_of(outcome), title(outcome.run)
        predictions = Predictions.read(outcome.run.folder / "predictions.parquet")
        scores = predictions.scores  # (N, C)
        correct = scores.argmax(axis=1) == predictions.truth.argmax(axis=1)
        seconds, confidence = result["seconds"], scores.max(axis=1)
        answers = Answers(name, predictions.ids, correct, result["trainable"], seconds, confidence)
        by_method.setdefault(name, []).append(answers)
    return [joined(each) for each in by_method.values()]


def joined(answers: Sequence[Answers]) -> Answers:
    """Of one method on several splits."""
    return answers[0]._replace(
        ids=[key for each in answers for key in each.ids],
        correct=np.concatenate([each.correct for each in answers]),
        train_seconds=sum(each.train_seconds for each in answers),
        confidence=np.concatenate([each.confidence for each in answers]),
    )


def probes(runs: Sequence[Run]) -> list[Answers]:
    """:func:`baselines` over all splits."""
    by_split = {each.seed: each.options for each in runs}
    with quiet_lightning():
        # one split's encoders at a time
        per_split = [
            list(baselines(run(["fit", *options], BuiltCLI))) for options in by_split.values()
        ]
    return [joined(each) for each in zip(*per_split, strict=True)]


def baselines(cli: EPICCLI) -> Iterable[Answers]:
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
    yield Answers("majority class", test.ids, test.labels == majority, 0, 0.0)
    for inputs in ("image", "text", "image + text"):
        start = time.perf_counter()
        scaler = StandardScaler().fit(train.features(inputs))
        features, held_out = (scaler.transform(each.features(inputs)) for each in (train, val))
        # the strengths in turn, each fit from where the one before it ended
        # to the optimum: where it stops earlier depends on the rows' order
        probe = LogisticRegression(max_iter=5000, tol=1e-6, warm_start=True)
        # torch's threads and those of BLAS get into each other's way
        with threadpool_limits(1):
            fitted = [
                deepcopy(probe.set_params(C=strength).fit(features, train.labels))
                for strength in PROBE_STRENGTHS
            ]
        best = max(fitted, key=lambda probe: probe.score(held_out, val.labels))
        correct = best.predict(scaler.transform(test.features(inputs))) == test.labels
        seconds = time.perf_counter() - start
        trainable = best.coef_.size + best.intercept_.size
        yield Answers(f"linear probe, {inputs}", test.ids, correct, trainable, seconds)


def pooled(loader: Iterable[Batch]) -> Split:
    """What the frozen encoders pool, as stored."""
    batches = list(loader)
    image, text = (
        torch.cat([batch[f"{kind}_features"]["pooled"].float() for batch in batches]).numpy()
        for kind in ("image", "text")
    )
    labels = torch.cat([batch["labels"] for batch in batches]).numpy()
    return Split([key for batch in batches for key in batch["sample_id"]], image, text, labels)


def row(answers: Answers) -> Row:
    """Accuracy and its interval."""
    accuracy = 100 * float(answers.correct.mean())
    interval = bootstrap(answers.ids, answers.correct)
    return Row(answers.method, accuracy, *interval, answers.trainable, answers.train_seconds)


def bootstrap(ids: list[str], values: npt.NDArray[Any]) -> tuple[float, float]:
    """A 95% interval of the values' mean, in percent, over pictures: several may be of one."""
    pictures = np.unique([group_of(key) for key in ids], return_inverse=True)[1]
    totals = np.bincount(pictures, weights=values)
    counts = np.bincount(pictures)
    draws = np.random.default_rng(0).integers(len(counts), size=(BOOTSTRAP_SAMPLES, len(counts)))
    means = totals[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.percentile(100 * means, [2.5, 97.5])
    return float(low), float(high)


def compare(answers: Sequence[Answers]) -> None:
    """Say how EPIC stands to the best of scikit-learn's probes, sample by sample."""
    epic = next((each for each in answers if each.method == METHODS["epic"]), None)
    if epic is None:
        return
    linear = [each for each in answers if each.method.endswith(("image", "text"))]
    best = max(linear, key=lambda each: each.correct.mean())
    mine = dict(zip(enumerate_ids(epic.ids), epic.correct, strict=True))
    theirs = dict(zip(enumerate_ids(best.ids), best.correct, strict=True))
    gains = np.array([float(mine[key]) - float(theirs[key]) for key in mine])
    low, high = bootstrap([key for key, _ in mine], gains)
    Console().print(
        f"EPIC over the best probe ({best.method}): {100 * gains.mean():+.1f} points on "
        f"{len(gains):,} test samples, 95% interval {low:+.1f} to {high:+.1f}."
    )


def say_calibration(answers: Answers) -> None:
    """How far answers are from being right as often as they say, after temperature scaling."""
    sure = torch.from_numpy(answers.confidence)
    right = torch.from_numpy(answers.correct)
    error = float(binary_calibration_error(sure, right.int(), n_bins=BINS))
    chance, low, high = error_by_chance(sure)
    Console().print(
        f"Calibration error of {answers.method} after scaling: {error:.1%} on {len(sure):,} test "
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


def say_where(outcome: Outcome) -> None:
    folder, share = outcome.run.folder, result_of(outcome)["encoder_share"]
    Console().print(
        f"{title(outcome.run)} trains {share:.2%} of the encoders' parameters. Logs (tensorboard "
        f"--logdir {folder}), checkpoints, confusion matrix and predictions: {folder}/",
        soft_wrap=True,
    )


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
