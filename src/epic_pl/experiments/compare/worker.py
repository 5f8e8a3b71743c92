"""One run of a comparison, in a process of its own: fit, test of the best checkpoint, files.

``python -m epic_pl.experiments.compare.worker FOLDER [PARENT]`` reads ``run.json`` there and writes
``result.json`` and ``predictions.parquet``; what it prints goes to the log of this run. It ends
when the process PARENT is gone.
"""

import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from epic_pl.callbacks import CostMeter, FeatureCache
from epic_pl.cli import EPICCLI, run
from epic_pl.commands import errors_as_text
from epic_pl.data import ImageTextDataModule
from epic_pl.errors import ConfigError
from epic_pl.experiments.compare.diary import RunDiary, TestOutputs
from epic_pl.experiments.compare.files import read_json, write_json
from epic_pl.experiments.compare.interruption import end_with
from epic_pl.module.checkpoint import read_checkpoint
from epic_pl.module.parameters import trainable_share

# how long the process of a comparison that was killed, and its loader workers, may take to end
_WAIT_S = 30


class RunCLI(EPICCLI):
    """``fit`` and then ``test``, with what the comparison wants to know of both."""

    def instantiate_classes(self) -> None:
        """Add the comparison's callbacks, and store what this method can use."""
        super().instantiate_classes()
        trainer: Any = self.trainer
        self.folder = Path(trainer.default_root_dir)
        self.meter, self.outputs = CostMeter(), TestOutputs()
        self.diary = RunDiary(self.folder / "progress.json", self.config.fit.checkpoint.monitor)
        # first, so that time spent in the others' hooks is seen
        trainer.callbacks[:0] = [self.diary, self.meter, self.outputs]
        cache = next(c for c in trainer.callbacks if isinstance(c, FeatureCache))
        if cache.level != "off":
            levels = self.model.model.cache_levels
            cache.level = levels[-1] if levels else "off"
        self.cache_level = cache.level

    def _run_subcommand(self, subcommand: str) -> None:
        fitted = read_json(self.folder / "fit.json")
        if fitted is None:
            super()._run_subcommand(subcommand)
            fitted = self._cost()
            if fitted["best"]:
                write_json(self.folder / "fit.json", fitted)
        self.trainer.test(
            self.model,
            datamodule=self.datamodule,
            ckpt_path=fitted["best"] or None,
            weights_only=True,
            verbose=False,
        )
        self.cost = fitted

    def _cost(self) -> dict[str, Any]:
        """What the fit took; a resumed one has measured rate and memory since it resumed."""
        best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
        step = read_checkpoint(best)["global_step"] if best else self.trainer.global_step
        return {
            "best": best,
            "best_step": step,
            "epochs": self.trainer.current_epoch,
            "seconds": self.diary.seconds,
            "seconds_to_best": self.diary.seconds_to(step),
            "prepare_seconds": self.diary.prepare_seconds,
            "samples_per_s": self.meter.samples_per_s or None,
            "peak_memory_mb": self.meter.peak_memory_mb,
        }

    def result(self) -> dict[str, Any]:
        """Metrics of the test split, cost and circumstances."""
        module = self.model
        metrics = {
            name.removeprefix("test/"): float(value)
            for name, value in self.trainer.callback_metrics.items()
            if name.startswith("test/")
        }
        device = self.trainer.strategy.root_device
        return {
            "task": module.task,
            "classes": module.num_classes,
            "metrics": metrics,
            "trainable": sum(p.numel() for p in module.parameters() if p.requires_grad),
            "encoder_share": trainable_share(module.model),
            **self.cost,
            "cache_level": self.cache_level,
            "train_frequencies": label_frequencies(self.datamodule, module.num_classes),
            "device": _device_name(device),
            "torch": torch.__version__,
        }


def run_one(folder: Path) -> None:
    """Run what ``run.json`` of ``folder`` says, or what is left of it.

    Raises:
        ConfigError: if there is none, or another process stays at it.
        EpicError: what ``fit`` and ``test`` raise.
    """
    spec = read_json(folder / "run.json")
    if spec is None:
        raise ConfigError(f"{folder} has no run.json: epic-pl compare writes it.")
    try:
        with FileLock(folder / ".lock", timeout=_WAIT_S):
            cli: Any = run(["fit", *spec["options"], *_places(folder)], RunCLI)
            cli.outputs.write(folder / "predictions.parquet", cli.model.class_names)
            names = {key: spec[key] for key in ("name", "method", "seed", "key")}
            write_json(folder / "result.json", names | cli.result())
    except Timeout:
        raise ConfigError(f"Another process is training in {folder}: wait for it.") from None


def _places(folder: Path) -> list[str]:
    """Options that keep all files of a run in its folder, and go on from what lies there."""
    checkpoints = folder / "checkpoints"
    options = [
        f"--trainer.default_root_dir={folder}",
        f"--checkpoint.dirpath={checkpoints}",
        f"--last_checkpoint.dirpath={checkpoints}",
    ]
    last = checkpoints / "last.ckpt"
    if last.is_file() and not (folder / "fit.json").is_file():
        options.append(f"--ckpt_path={last}")
    return options


def label_frequencies(data: ImageTextDataModule, num_classes: int) -> list[float]:
    """Share of the training rows that have each class, ``(C,)``.

    Where labels are drawn anew every epoch, those of the present one are counted.
    """
    try:
        return data.class_frequencies
    except ConfigError:
        pass
    data.setup("fit")
    dataset: Any = data.dataset("train")
    counts = np.zeros(num_classes)
    for index in range(len(dataset)):
        label = dataset.reference(index)["label"]
        if label is not None:
            counts[label] += 1
    return [float(count) / len(dataset) for count in counts]


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {platform.machine()}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    if len(sys.argv) > 2:
        end_with(int(sys.argv[2]))
    with errors_as_text():
        run_one(Path(sys.argv[1]))
