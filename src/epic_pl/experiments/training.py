"""Training and test of one run of a comparison."""

import platform
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from timeit import repeat
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, Timer

from epic_pl.data.dataset import ImageTextDataset
from epic_pl.experiments.options import feature_cache, use_stored_features
from epic_pl.experiments.runs import Run, in_new_process
from epic_pl.inference.classifier import Classifier
from epic_pl.module import EPICModule
from epic_pl.module.callbacks import CostMeter
from epic_pl.module.evaluator import Evaluator
from epic_pl.module.parameters import trainable_share
from epic_pl.module.prediction_table import prediction_table
from epic_pl.run.epic_cli import build_data, parse, quiet_lightning
from epic_pl.utils.errors import EpicError
from epic_pl.utils.files import replacing, try_read_json

_WARMUP_CALLS, _TIMED_CALLS = 3, 20


def store_features(runs: Sequence[Run]) -> None:
    """Store what the runs that are not finished read; each image passes through its encoder once.

    The method whose tokens are of the earliest layer comes first, since what others read follows
    from its tokens. Seconds are added to ``result.json`` in the folder ``features`` beside those of
    the runs. What cannot be stored is left to the runs, which say why. Before, it reads the data.

    Raises:
        DataError: if the data cannot be read, which no run could change.
    """
    pending = [run for run in runs if not (run.folder / "result.json").is_file()]
    if pending:
        data = build_data(pending[0].options)
        data.prepare_data()
        data.setup("fit")
        data.setup("test")
        storing = Run("features", 0, (), pending[0].folder.with_name("features"), shown=True)
        in_new_process(storing, partial(_store, pending))


def _store(runs: Sequence[Run], none: Sequence[str], folder: Path) -> dict[str, Any]:
    """Store the features of the methods of some runs."""
    start, order = time.monotonic(), []
    for run in {run.name: run for run in reversed(runs)}.values():  # the first seed of each
        with suppress(EpicError), quiet_lightning():
            module, *_ = built = parse(["fit", *run.options]).build()
            level = use_stored_features(built)
            towers = module.model.image_tower, module.model.text_tower
            lacks = (level != "tokens" and not tower.keeps_tokens for tower in towers)
            if level != "off":
                order.append(((*lacks, *(tower.layers[0] for tower in towers)), run.options))
    for _, options in sorted(order):
        with suppress(EpicError), quiet_lightning():
            module, data, trainer = built = parse(["fit", *options]).build()
            use_stored_features(built)
            feature_cache(trainer).build_stores(trainer, module, data)
    before = (try_read_json(folder / "result.json") or {}).get("seconds", 0.0)
    return {"seconds": before + time.monotonic() - start}


def train_and_test(options: Sequence[str], folder: Path) -> dict[str, Any]:
    """Train with options of ``fit`` in a folder, or continue there, and test.

    It writes ``predictions.parquet`` of the test. A training that is continued, also one that was
    finished and not tested, has storing, processor, rate and memory of its last process.

    Returns:
        Metrics of the test, cost, and settings such as the cache level.

    Raises:
        EpicError: if ``fit`` or ``test`` fails.
    """
    checkpoints = folder / "checkpoints"
    places = [
        f"--trainer.default_root_dir={folder}",
        f"--checkpoint.dirpath={checkpoints}",
        f"--last_checkpoint.dirpath={checkpoints}",
    ]
    if (last := checkpoints / "last.ckpt").is_file():
        places.append(f"--ckpt_path={last}")
    cli = parse(["fit", *options, *places])
    module, data, trainer = built = cli.build()
    timer, meter = Timer(), CostMeter()
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning's
    callbacks[:0] = [timer, meter]  # first, so that they measure the hooks of the others, too
    cache_level = use_stored_features(built)
    start, storing_s = time.monotonic(), 0.0
    if cache_level != "off":  # store features before training is timed
        feature_cache(trainer).build_stores(trainer, module, data)
        storing_s = time.monotonic() - start
    start = time.process_time()
    cli.execute()
    fitted = {
        "storing_s": storing_s,
        "processor_s": time.process_time() - start,
        "validation": _scores(trainer, "val/"),
        "checkpoint": cli.kept,
        "epochs": trainer.current_epoch,
        "seconds": timer.time_elapsed(),
        "samples_per_s": meter.samples_per_s or None,
        "peak_memory_mb": meter.peak_memory_mb,
    }
    kept = cli.kept or None
    trainer.test(module, datamodule=data, ckpt_path=kept, weights_only=True, verbose=False)
    _write_predictions(module, folder / "predictions.parquet")
    device, thresholds = trainer.strategy.root_device, module.postprocessor.thresholds
    return {
        **fitted,
        "task": module.task,
        "metrics": _scores(trainer, "test/"),
        "thresholds": None if thresholds is None else thresholds.tolist(),
        "trainable": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "encoder_share": trainable_share(module.model),
        "cache_level": cache_level,
        "latency_ms": _latency_ms(module, data.dataset("test"), device),
        "device": _device_name(device),
        "torch": torch.__version__,
    }


def _scores(trainer: Trainer, prefix: str) -> dict[str, float]:
    """The metrics that a trainer logged last of one split."""
    logged = trainer.callback_metrics.items()
    return {name.removeprefix(prefix): float(v) for name, v in logged if name.startswith(prefix)}


def _write_predictions(module: EPICModule, path: Path) -> None:
    """Write the predictions of a test, with ``truth``.

    ``truth`` is a class name, or a list of them for multilabel.
    """
    outputs, evaluator = module.outputs.merged(), Evaluator.of(module)
    truth: list[Any] = [evaluator.names(label) for label in outputs.labels]
    kind = pa.list_(pa.string())
    if module.task == "multiclass":
        truth, kind = [name for [name] in truth], pa.string()
    columns = {
        "sample_id": outputs.sample_id,
        "image_path": outputs.image_path or [None] * len(truth),
    }
    scores = evaluator.probabilities(outputs.logits).numpy()
    least = module.postprocessor.threshold_array()
    table = prediction_table(columns, scores, module.class_names, least, top_k=None)
    with replacing(path) as partial:
        pa.parquet.write_table(table.append_column("truth", pa.array(truth, kind)), partial)


def _latency_ms(module: EPICModule, dataset: ImageTextDataset, device: torch.device) -> float:
    """Median time in ms of a ``Classifier`` call with one of the rows of most modalities."""
    rows = map(dataset.row, range(len(dataset)))
    row = max(rows, key=lambda row: (row["image"] is not None) + (row["text"] is not None))
    image = None if row["image"] is None else dataset.image_root / row["image"]
    text = "" if image is None and row["text"] is None else row["text"]  # all lack the modality
    classifier = Classifier(module, device)
    item: Any = {"image": image, "text": text, **dict.fromkeys(classifier.columns)}
    seconds = repeat(lambda: classifier([item]), number=1, repeat=_WARMUP_CALLS + _TIMED_CALLS)
    return 1000 * statistics.median(seconds[_WARMUP_CALLS:])


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {platform.machine()}, {torch.get_num_threads()} threads"
