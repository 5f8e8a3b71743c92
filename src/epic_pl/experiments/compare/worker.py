"""One run of a comparison, in a process of its own: fit, then test of what it kept; or a search.

``python -m epic_pl.experiments.compare.worker FOLDER [PARENT]`` reads ``run.json`` in the folder
and writes ``result.json``, and ``predictions.parquet`` of a test. It ends when the process PARENT
has ended.
"""

import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import torch
from filelock import FileLock, Timeout
from lightning.pytorch.callbacks import Timer

from epic_pl.cli.epic_cli import run
from epic_pl.cli.error_text import errors_as_text
from epic_pl.data.dataset import ImageTextDataset
from epic_pl.data.processor import Item
from epic_pl.experiments.interruption import end_with
from epic_pl.experiments.options import use_stored_features
from epic_pl.inference.classifier import Classifier
from epic_pl.module import EPICModule
from epic_pl.module.callbacks import CostMeter
from epic_pl.module.evaluator import Evaluator
from epic_pl.module.parameters import trainable_share
from epic_pl.utils.errors import ConfigError
from epic_pl.utils.files import replacing, try_read_json, write_json

# the process of a comparison that was killed, and its loader workers, need some time to end
_WAIT_S = 30
_WARMUP_CALLS, _TIMED_CALLS = 3, 20


def run_one(folder: Path) -> None:
    """Do the run or search of ``run.json`` in ``folder``, or the part of it that is left.

    Raises:
        ConfigError: if another process is training there, or no trial was trained to its end.
        EpicError: from ``fit`` and ``test``.
    """
    spec = try_read_json(folder / "run.json") or {}
    options, search = spec.pop("options"), spec.pop("search", None)
    if search:
        best = _search_options(options, folder, *search)
        write_json(folder / "result.json", spec | {"chosen": best})
        return
    try:
        with FileLock(folder / ".lock", timeout=_WAIT_S):
            write_json(folder / "result.json", spec | _fit_and_test(options, folder))
    except Timeout:
        raise ConfigError(f"Another process is training in {folder}: wait for it.") from None


def _search_options(options: list[str], folder: Path, space: str, trials: int) -> dict[str, Any]:
    """The best options of ``epic-pl tune``, which needs an extra."""
    from epic_pl.experiments.tune.search import plan_search, read_space
    from epic_pl.experiments.tune.study import best_options

    best = best_options(plan_search(options, read_space(space), folder), trials, _WAIT_S)
    if best is None:
        raise ConfigError("No trial came to its end.")
    return best


def _fit_and_test(options: list[str], folder: Path) -> dict[str, Any]:
    """Train, unless that is done, and test: metrics, cost and circumstances."""
    checkpoints = folder / "checkpoints"
    places = [
        f"--trainer.default_root_dir={folder}",
        f"--checkpoint.dirpath={checkpoints}",
        f"--last_checkpoint.dirpath={checkpoints}",
    ]
    fitted, last = _fitted(folder), checkpoints / "last.ckpt"
    if fitted is None and last.is_file():
        places.append(f"--ckpt_path={last}")
    cli: Any = run(["fit", *options, *places], "build")
    trainer, module = cli.trainer, cli.model
    timer, meter = Timer(), CostMeter()
    # first, so that they measure the hooks of the others, too
    trainer.callbacks[:0] = [timer, meter]
    cache_level = use_stored_features(cli)
    if fitted is None:
        cli.execute()
        fitted = {  # of a resumed fit, rate and memory since it was resumed
            "best": getattr(trainer.checkpoint_callback, "best_model_path", ""),
            "epochs": trainer.current_epoch,
            "seconds": timer.time_elapsed(),
            "samples_per_s": meter.samples_per_s or None,
            "peak_memory_mb": meter.peak_memory_mb,
        }
        if fitted["best"]:
            write_json(folder / "fit.json", fitted)
    trainer.test(
        module,
        datamodule=cli.datamodule,
        ckpt_path=fitted["best"] or None,
        weights_only=True,
        verbose=False,
    )
    _write_predictions(module, folder / "predictions.parquet")
    metrics = {
        name.removeprefix("test/"): float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("test/")
    }
    device = trainer.strategy.root_device
    return {
        **fitted,
        "task": module.task,
        "metrics": metrics,
        "trainable": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "encoder_share": trainable_share(module.model),
        "cache_level": cache_level,
        "latency_ms": _latency_ms(module, cli.datamodule.dataset("test"), device),
        "device": _device_name(device),
        "torch": torch.__version__,
    }


def _fitted(folder: Path) -> dict[str, Any] | None:
    """Content of ``fit.json``, if the checkpoint that it names lies in this run's own folder."""
    fitted = try_read_json(folder / "fit.json") or {}
    best = folder / "checkpoints" / Path(str(fitted.get("best"))).name
    return fitted | {"best": str(best)} if best.is_file() else None


def _write_predictions(module: EPICModule, path: Path) -> None:
    """Write ``sample_id``, ``image_path``, ``truth`` and ``probability_<class>`` of a test.

    ``truth`` is a class name, or a list of them for multilabel.
    """
    outputs, evaluator = module.outputs.merged(), Evaluator.of(module)
    truth: list[Any] = [evaluator.names(label) for label in outputs.labels]
    kind = pa.list_(pa.string())
    if module.task == "multiclass":
        truth, kind = [name for [name] in truth], pa.string()
    columns = {
        "sample_id": pa.array(outputs.sample_id, pa.string()),
        "image_path": pa.array(outputs.image_path or [None] * len(truth), pa.string()),
        "truth": pa.array(truth, kind),
    }
    scores = evaluator.probabilities(outputs.logits).numpy()
    columns |= {f"probability_{name}": scores[:, i] for i, name in enumerate(module.class_names)}
    with replacing(path) as partial:
        pa.parquet.write_table(pa.table(columns), partial)


def _latency_ms(module: EPICModule, dataset: ImageTextDataset, device: torch.device) -> float:
    """Median milliseconds of a ``Classifier``'s call with the first row, a complete one if any."""
    rows = map(dataset.reference, range(len(dataset)))
    complete = (row for row in rows if None not in (row["image"], row["text"]))
    row = next(complete, dataset.reference(0))
    image = None if row["image"] is None else dataset.image_root / row["image"]
    classifier = Classifier(module, device)
    milliseconds: list[float] = []
    for _ in range(_WARMUP_CALLS + _TIMED_CALLS):
        start = time.perf_counter()
        classifier([Item(image=image, text=row["text"])])
        milliseconds.append(1000 * (time.perf_counter() - start))
    return statistics.median(milliseconds[_WARMUP_CALLS:])


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {platform.machine()}, {torch.get_num_threads()} threads"


def main() -> None:
    """Do the run of the command line."""
    if len(sys.argv) > 2:
        end_with(int(sys.argv[2]))
    with errors_as_text():
        run_one(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
